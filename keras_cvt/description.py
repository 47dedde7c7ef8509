"""What a model takes and gives: read off the graph, in code and as JSON.

Everything that asks a model about its input, its outputs, its classes or its origin
asks here. The command line, exported files, pages of the Hub and checkpoints store
the JSON form.
"""

import collections
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_cvt._utils import graphs, validation
from keras_cvt.config import CvTConfig
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.layers import ConvTransformerStage, ImagePreprocessing
from keras_cvt.layers.preprocessing import IMAGENET_MEAN

# Activations of a head that a description tells apart; "linear" is none at all.
ACTIVATIONS = ("softmax", "sigmoid", "linear")
# "probabilities" and "logits" are of classes; "regression" are plain numbers, and
# "features" the output of a model without a head.
OUTPUT_KINDS = ("probabilities", "logits", "regression", "features")
# Layers and operations of Keras that compute nothing at inference, beside the
# `Random...` layers. They take the same values as what follows them.
_INERT = {
    *("AugMix", "CutMix", "MixUp", "RandAugment", "Identity", "ActivityRegularization"),
    *("Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout"),
    *("GaussianNoise", "InputLayer"),
}
# Those that compute something and keep the range of the values.
_KEEP_RANGE = {
    *("Resizing", "CenterCrop", "RandomCrop", "Cropping2D"),
    *("Concatenate", "Repeat", "Tile", "Cast"),
}
# What the JSON form keeps under "input".
_OF_INPUT = (
    *("image_size", "channels", "range", "range_known", "include_preprocessing"),
    *("eval_transform", "layers_in_front"),
)


@dataclass(frozen=True)
class ModelDescription:
    """What a model takes, what it gives and where it comes from.

    Attributes:
        name: The model's name.
        config: The network, or None where a file of version 0.1.0 does not tell.
        image_size: (height, width) in pixels of the images; None where any fits.
        channels: Number of image channels.
        include_preprocessing: Whether the network normalises its images itself, and
            so takes RGB of 0-255. Otherwise it takes normalised images.
        eval_transform: How images are resized and cropped for the weights.
        outputs: One of `OUTPUT_KINDS`.
        activation: Of the head: one of `ACTIVATIONS`, another name of Keras, or None
            without a head.
        classes: Number of outputs of the head; 0 without a head.
        class_names: A name for each class, or None if they are not known.
        source_weights: Where the weights come from, or None.
        layers_in_front: Names of the layers between the input and the network, as
            `input_tensor=` makes them.
        range_known: Whether it is known which values the model takes: those of the
            network, if all layers in front keep the range, as augmentation and resizing
            do. What a model with any other layer in front takes, only its author knows.
            Defaults to `None`, which means that it is known without layers in front.
    """

    name: str
    config: CvTConfig | None
    image_size: tuple[int | None, int | None]
    channels: int
    include_preprocessing: bool
    eval_transform: EvalTransform
    outputs: str
    activation: str | None = None
    classes: int = 0
    class_names: tuple[str, ...] | None = None
    source_weights: str | None = None
    layers_in_front: tuple[str, ...] = ()
    range_known: bool | None = None

    def __post_init__(self):
        if self.range_known is None:
            object.__setattr__(self, "range_known", not self.layers_in_front)
        validation.check_choice(OUTPUT_KINDS, outputs=self.outputs)
        validation.check_int(1, channels=self.channels)
        validation.check_int(0, classes=self.classes)
        validation.check_bool(
            include_preprocessing=self.include_preprocessing,
            range_known=self.range_known,
        )
        texts = {"activation": self.activation, "source_weights": self.source_weights}
        texts = {name: text for name, text in texts.items() if text is not None}
        validation.check(lambda x: isinstance(x, str), "text", name=self.name, **texts)
        validation.check(
            lambda names: (
                not isinstance(names, str)
                and all(isinstance(name, str) for name in names)
            ),
            "names of layers",
            layers_in_front=self.layers_in_front,
        )
        object.__setattr__(self, "layers_in_front", tuple(self.layers_in_front))
        if self.class_names is not None:
            names = validation.check_class_names(
                self.class_names, self.classes, stored=True
            )
            object.__setattr__(self, "class_names", names)

    @property
    def answers(self) -> str:
        """What the outputs answer; see `answers_of`."""
        return answers_of(self.outputs, self.activation, self.classes)

    @property
    def is_classifier(self) -> bool:
        """Whether the outputs are scores of classes."""
        return self.answers != "values"

    @property
    def score_activation(self) -> str | None:
        """What makes scores of 0-1 of the outputs, or None if there is nothing to do.

        `"softmax"` for the logits of several classes, `"sigmoid"` for one logit.
        """
        if self.outputs != "logits":
            return None
        return "sigmoid" if self.answers == "decisions" else "softmax"

    @property
    def value_range(self) -> tuple[int, int] | None:
        """(0, 255) if the model takes pixels; None if its caller prepares images."""
        return (0, 255) if self.include_preprocessing and self.range_known else None

    @property
    def takes_photos(self) -> bool:
        """Whether the model takes RGB images of 0-255."""
        return self.value_range is not None and self.channels == len(IMAGENET_MEAN)

    def check_photos(self) -> None:
        """Raise ValueError unless the model takes RGB images of 0-255."""
        if self.takes_photos:
            return
        problem = f"Its images have {self.channels} channels"
        if not self.range_known:
            problem = (
                "Only its author knows what values its layers in front take: "
                f"{', '.join(self.layers_in_front)}"
            )
        elif not self.include_preprocessing:
            problem = (
                "It takes normalised images; build it with `include_preprocessing=True`"
            )
        raise ValueError(
            "Expected a model that takes RGB images of 0-255. "
            f"Received: {self.name!r}. {problem}"
        )

    def builder_arguments(self) -> dict[str, Any]:
        """Return the arguments with which `keras_cvt.CvT` builds this network again.

        The model takes images of any size. Layers in front are not part of it.

        Raises:
            ValueError: If the network is not known, or has no head.
        """
        if self.config is None or not self.classes:
            raise ValueError(
                "Expected the description of a network with a head. "
                f"Received: config={self.config}, classes={self.classes}"
            )
        return {
            "config": self.config,
            "classes": self.classes,
            "input_shape": (None, None, self.channels),
            "classifier_activation": self.activation,
            "include_preprocessing": self.include_preprocessing,
            "name": self.name,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON can hold it."""
        values = dataclasses.asdict(self) | {"range": self.value_range}
        values["input"] = {"layout": "NHWC"} | {n: values.pop(n) for n in _OF_INPUT}
        # As JSON gives it back, so that tuples are lists.
        return json.loads(json.dumps(values))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelDescription":
        """Return the description that `to_dict` wrote.

        What version 0.1.0 wrote into exported files is understood too.

        Raises:
            ValueError: If a field is missing, of a wrong type or out of range.
        """
        try:
            known = {field.name for field in dataclasses.fields(cls)}
            given = {**values, **values["input"]}
            names = given.get("class_names", given.get("labels"))
            fields = {name: given[name] for name in known & given.keys()}
            fields |= {name: given[name] for name in ("outputs", "channels")}
            fields.setdefault("name", "cvt")
            fields.setdefault("classes", len(names or ()))
            fields.setdefault("include_preprocessing", given.get("range") is not None)
            height, width = given["image_size"]
            sides = [side for side in (height, width) if side is not None]
            validation.check(
                lambda x: all(validation.is_int(side) and side > 0 for side in sides),
                "positive integers or None",
                image_size=given["image_size"],
            )
            config = fields.pop("config", None)
            return cls(
                **fields
                | {
                    "config": None if config is None else CvTConfig.from_dict(config),
                    "image_size": (height, width),
                    "eval_transform": EvalTransform(**given["eval_transform"]),
                    "class_names": names,
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                "Expected the description of a model as keras_cvt writes it. "
                f"{type(error).__name__}: {str(error)[:200]!a}. "
                f"Received: {str(values)[:200]}"
            ) from error

    def replace(self, **changes: Any) -> "ModelDescription":
        """Return a copy with other values."""
        return dataclasses.replace(self, **changes)


def describe(model: keras.Model) -> ModelDescription:
    """Describe a live model by its graph, whatever its layers are called.

    Args:
        model: A functional model with the layers of a CvT: what `keras_cvt`'s builders
            return, with any head, any layers in front, fused or quantized.

    Raises:
        ValueError: If the model is not such a model.
    """
    preprocessing, inputs = find_preprocessing(model)
    stages = cvt_stages(model)
    if not stages:
        raise ValueError(f"Expected a CvT with its stages. Received: model={model!r}")
    head, activation, _ = find_head(model)
    classes = 0 if head is None else model.outputs[0].shape[-1]
    names = preprocessing.class_names
    images = model.inputs[0] if len(model.inputs) == 1 else inputs[0]
    # Layers in front may take something else, such as encoded images.
    shape = images.shape if len(images.shape) == 4 else inputs[0].shape
    _, height, width, channels = shape
    in_front = [
        node.operation
        for node in graphs.nodes(inputs)
        if not isinstance(node.operation, keras.layers.InputLayer)
    ][::-1]
    transform = EvalTransform(preprocessing.image_size, preprocessing.crop_ratio)
    if in_front:
        # A layer in front may resize: what is told is the size in front of it.
        transform = transform.at_size(height, width)
    return ModelDescription(
        name=model.name,
        config=config_of(stages),
        image_size=(height, width),
        channels=channels,
        include_preprocessing=preprocessing.normalize,
        eval_transform=transform,
        outputs=_output_kind(activation, preprocessing.output_kind),
        activation=activation,
        classes=classes,
        # A new head may have been put on the layers of an old one.
        class_names=None if names is None or len(names) != classes else names,
        source_weights=preprocessing.source_weights,
        layers_in_front=tuple(operation.name for operation in in_front),
        range_known=all(map(_keeps_range, in_front)),
    )


def answers_of(outputs: str, activation: str | None, classes: int) -> str:
    """Return how people read a model's outputs.

    - `"class"`: one class for each image, the one with the highest score.
    - `"decisions"`: yes or no for each output by itself, on either side of a
      probability of 0.5: a sigmoid, or one logit.
    - `"values"`: plain numbers: regression, features, and a softmax over one output,
      which is always 1.

    Args:
        outputs: One of `OUTPUT_KINDS`.
        activation: Of the head, or None.
        classes: Number of outputs.
    """
    if outputs not in ("probabilities", "logits"):
        return "values"
    if activation == "sigmoid":
        return "decisions"
    if classes > 1:
        return "class"
    return "values" if activation == "softmax" else "decisions"


def cvt_stages(model: keras.Model) -> list[ConvTransformerStage]:
    """Return a model's stages, first to last."""
    return [layer for layer in model.layers if isinstance(layer, ConvTransformerStage)]


def token_only_stages(model: keras.Model) -> set[ConvTransformerStage]:
    """Return the stages of which a model uses the class token but not the map.

    Args:
        model: A functional model. Those in it are searched too.
    """
    if not hasattr(model, "operations"):
        return set()
    nodes = list(graphs.nodes(keras.tree.flatten(model.outputs)))
    calls = collections.Counter(node.operation for node in nodes)
    read = {id(tensor) for node in nodes for tensor in node.input_tensors}
    read |= {id(tensor) for tensor in keras.tree.flatten(model.outputs)}
    found = set()
    for node in nodes:
        operation = node.operation
        if isinstance(operation, keras.Model):
            found |= token_only_stages(operation)
        stage = isinstance(operation, ConvTransformerStage)
        if stage and operation.config.cls_token and calls[operation] == 1:
            feature_map, token = node.output_tensors[:2]
            if id(feature_map) not in read and id(token) in read:
                found.add(operation)
    return found


def config_of(stages: list[ConvTransformerStage]) -> CvTConfig:
    """Return the configuration of the network that has these stages."""
    return CvTConfig(
        stages=tuple(stage.config for stage in stages),
        activation=stages[0].activation,
        init=stages[0].init,
        final_norm=stages[0].final_norm,
    )


def find_preprocessing(
    model: keras.Model,
) -> tuple[ImagePreprocessing, list[keras.KerasTensor]]:
    """Return the layer that stores a model's facts, and what goes into it.

    Raises:
        ValueError: If the model has no such layer.
    """
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    for node in graphs.nodes(outputs):
        if isinstance(node.operation, ImagePreprocessing):
            return node.operation, node.input_tensors
    raise ValueError(
        "Expected a functional CvT, as keras_cvt's builders return. "
        f"Received: model={model!r}"
    )


def find_head(
    model: keras.Model,
) -> tuple[keras.layers.Dense | None, str | None, keras.KerasTensor | None]:
    """Return a model's head, its activation and the tensor that goes into it.

    The head is the dense layer that makes the outputs (B, classes). An activation may
    be part of it or follow as a layer or an operation of its own. Without a head all
    three are None.
    """
    activations: list[str] = []
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        return None, None, None
    for node in graphs.nodes(model.outputs):
        operation, inputs = node.operation, node.input_tensors
        head = isinstance(operation, keras.layers.Dense)
        found = _activation(operation)
        if found is None:
            break
        # A layer without one, such as Dropout, does not change what the outputs are.
        activations += [found] if found != "linear" else []
        if head:
            # Two activations, one after the other, have no name.
            names = activations or ["linear"]
            return operation, names[0] if len(names) == 1 else "custom", inputs[0]
    return None, None, None


def _activation(operation):
    """Return the activation that an operation has, or None if it is something else."""
    if isinstance(operation, (keras.layers.Activation, keras.layers.Dense)):
        name = keras.activations.serialize(operation.activation)
        return name if isinstance(name, str) else "custom"
    if _is_inert(operation):
        return "linear"
    # As a layer, or of `keras.ops`, which makes an operation that is not a layer.
    return {"Softmax": "softmax", "Sigmoid": "sigmoid"}.get(type(operation).__name__)


def _is_inert(operation) -> bool:
    """Return whether an operation of Keras computes nothing at inference."""
    if isinstance(operation, keras.Model):
        return all(map(_is_inert, operation.layers))
    name = type(operation).__name__
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    if not type(operation).__module__.startswith("keras."):
        return False  # somebody's own layer of the same name
    return name in _INERT or (name.startswith("Random") and name not in _KEEP_RANGE)


def _keeps_range(operation) -> bool:
    """Return whether what goes into an operation has the range of what comes out."""
    if isinstance(operation, keras.Model):
        return all(map(_keeps_range, operation.layers))
    known = type(operation).__module__.startswith("keras.")
    return _is_inert(operation) or (known and type(operation).__name__ in _KEEP_RANGE)


def other_layers(model: keras.Model) -> list[Any]:
    """Return the layers and operations that a checkpoint cannot express.

    These are all that compute something at inference and are neither the network
    (preprocessing, stages, norm and pooling) nor its head with one activation.
    """
    head, activation, _ = find_head(model)
    last = cvt_stages(model)[-1]
    known: dict[str, tuple] = {"norm": (keras.layers.LayerNormalization,)}
    if head is None:
        pools = keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D
        known["pool"] = pools
    elif not last.config.cls_token:
        known["pool"] = (keras.layers.GlobalAveragePooling2D,)
    others, seen_head = [], head is None
    for node in graphs.nodes(keras.tree.flatten(model.outputs)):
        operation = node.operation
        seen_head = seen_head or operation is head
        own = isinstance(operation, (ImagePreprocessing, ConvTransformerStage))
        own = own or isinstance(operation, known.get(operation.name, ()))
        own = own or operation is head or (not seen_head and activation != "custom")
        if not (own or _is_inert(operation)):
            others.append(operation)
    return others[::-1]


def _output_kind(activation, override):
    if activation is None or override == "features":
        return "features"
    if activation in ("softmax", "sigmoid"):
        return "probabilities"
    if activation == "linear":
        return "regression" if override == "regression" else "logits"
    # Only the author knows the meaning of any other activation.
    return override or "regression"
