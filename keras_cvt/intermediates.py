"""Intermediate tensors of a network as outputs of a Keras model."""

from collections.abc import Sequence

import keras

from keras_cvt._utils import graphs
from keras_cvt.layers import ConvTransformerStage, StageIntermediates


def names(model: keras.Model) -> list[str]:
    """Return the names of a model's intermediate tensors; see `CvTModel`."""
    found = []
    for layer in _layers(model):
        if isinstance(layer, ConvTransformerStage) and not layer.fused:
            found += [f"{layer.name}/{name}" for name in layer.intermediate_names]
        found.append(layer.name)
    return found


def build(model: keras.Model, wanted: Sequence[str]) -> keras.Model:
    """Return a model that computes the named tensors; see `CvTModel.intermediates`."""
    _check(model, wanted)
    inside: dict[str, list[str]] = {}
    for name in wanted:
        layer, _, rest = name.partition("/")
        if rest:
            inside.setdefault(layer, []).append(rest)
    found = {}

    def share(layer):
        if layer.name not in inside:
            return layer
        names = inside[layer.name]
        # Its sublayers have their own precision.
        return StageIntermediates(layer, names, name=layer.name, dtype="float32")

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        if isinstance(layer, StageIntermediates):
            outputs, tensors = outputs
            found.update({f"{layer.name}/{n}": x for n, x in tensors.items()})
        # Of a stage with a class token, the map.
        found[layer.name] = outputs[0] if isinstance(outputs, tuple) else outputs
        return outputs

    copy = keras.models.clone_model(
        graphs.uncompiled(model), clone_function=share, call_function=call
    )
    return keras.Model(copy.input, {name: found[name] for name in wanted})


def _check(model, wanted):
    known = names(model)
    is_list = isinstance(wanted, (list, tuple)) and len(wanted) > 0
    unknown = [name for name in wanted if name not in known] if is_list else []
    if not is_list or unknown:
        fused = any(getattr(layer, "fused", False) for layer in model.layers)
        hint = " A fused network has no names inside of its stages." if fused else ""
        raise ValueError(
            f"Expected a list of names of `intermediate_names`: {', '.join(known)}."
            f"{hint} Received: {unknown or wanted!r}"
        )


def _layers(model):
    """Return the layers that a model's graph calls, first to last."""
    called = {node.operation for node in graphs.nodes(model.outputs)}
    return [
        operation
        for operation in model.operations
        if operation in called and not isinstance(operation, keras.layers.InputLayer)
    ]
