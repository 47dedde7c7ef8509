"""The parts of a network that explanations compute."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_cvt._utils import graphs
from keras_cvt._utils.gradients import untracked
from keras_cvt.description import find_head, find_preprocessing
from keras_cvt.explain import geometry
from keras_cvt.layers import ConvTransformerStage
from keras_cvt.models import CvTModel

# Model -> name of a part -> the part. Building one adds calls to the model's layers, so
# that each is built once.
_PARTS: weakref.WeakKeyDictionary[keras.Model, dict] = weakref.WeakKeyDictionary()


# Layers that do not move what an image shows, but for its size.
_STRETCHING = (
    keras.layers.InputLayer,
    keras.layers.Resizing,
    keras.layers.Rescaling,
    keras.layers.Normalization,
)


def check(model: Any, images: Any) -> None:
    """Raise an error unless a network and its images can be explained.

    Raises:
        TypeError: If the model is not a `CvTModel`.
        ValueError: If it is fused, or if the images are not a batch of its channels.
    """
    if not isinstance(model, CvTModel):
        raise TypeError(
            "Expected a network of keras_cvt. For a model built around one, pass that "
            f"network. Received: {model!r}"
        )
    if any(stage.fused for stage in model.stages):
        raise ValueError(
            "Expected the network as it was before `keras_cvt.deploy.fuse`, which "
            f"leaves out what explanations need. Received: {model.name!r}, fused"
        )
    shape = getattr(images, "shape", None)
    height, width = model.description.image_size
    expected = ("B", height or "H", width or "W", model.channels)
    fits = (
        shape is not None
        and len(shape) == len(expected)
        and all(n in (have, *"BHW") for n, have in zip(expected, shape, strict=True))
    )
    if not fits:
        raise ValueError(
            f"Expected images ({', '.join(map(str, expected))}) as the model takes "
            "them; `keras_cvt.preprocess_input` makes them of photos. Received: "
            f"{type(images).__name__}{'' if shape is None else f' of shape {shape}'}"
        )


def check_index(name: str, index: Any, count: int) -> int:
    """Return an index of a list as a number of at least 0.

    Raises:
        ValueError: If the list has no such element.
    """
    is_index = isinstance(index, (int, np.integer)) and not isinstance(index, bool)
    if not is_index or not -count <= index < count:
        raise ValueError(
            f"Expected {name} to be an integer from {-count} to {count - 1}. "
            f"Received: {name}={index!r}"
        )
    return int(index) % count


def intermediates(model: CvTModel, names: list[str], images: Any) -> dict[str, Any]:
    """Compute tensors of a network in evaluation.

    Args:
        model: The network.
        names: Names of `CvTModel.intermediate_names`.
        images: (B, H, W, C).

    Returns:
        The tensors by name, and as `"images"` the images that enter the network, which
        layers in front may have resized.
    """
    entry = find_preprocessing(model)[0].name
    names = [*names, entry]
    build = functools.partial(model.intermediates, names)
    part = _part(model, tuple(names), build)
    with untracked():
        found = part(keras.ops.convert_to_tensor(images), training=False)
    return {"images": found[entry], **found}


def block_inputs(
    model: CvTModel, stage: ConvTransformerStage, images: Any
) -> tuple[list, tuple[int, int], tuple[int, int]]:
    """Compute the tokens that enter each block of a stage, and those that leave it.

    Returns:
        The tokens (B, T, C), one more than there are blocks; (h, w) of their grid; and
        (H, W) of the images that enter the network.
    """
    embed = f"{stage.name}/embed"
    names = [f"{stage.name}/blocks/{i}" for i in range(stage.config.depth)]
    found = intermediates(model, [embed, *names], images)
    height, width, channels = found[embed].shape[1:]
    tokens = keras.ops.reshape(found[embed], (-1, height * width, channels))
    if stage.config.cls_token:
        tokens = stage.cls_token(tokens)
    tokens = [tokens, *(found[name] for name in names)]
    return tokens, (height, width), found["images"].shape[1:3]


def at_size_of(images: Any, model: CvTModel, maps: np.ndarray) -> np.ndarray:
    """Bring maps (B, H, W) of the network's images to the size of the model's images.

    Raises:
        ValueError: If a layer in front may keep only a part of the images.
    """
    size = tuple(images.shape[1:3])
    if maps.shape[1:] == size:
        return maps
    _, entering = find_preprocessing(model)
    for node in graphs.nodes(entering):
        layer = node.operation
        keeps_aspect = getattr(layer, "crop_to_aspect_ratio", False)
        keeps_aspect |= getattr(layer, "pad_to_aspect_ratio", False)
        if keeps_aspect or not isinstance(layer, _STRETCHING):
            raise ValueError(
                "Expected layers in front of the network that keep the images' size or "
                "stretch them; pass `upsample=False` for the tokens' own grid. "
                f"Received: {layer.name!r} ({type(layer).__name__})"
            )
    return geometry.resize(maps, *size)


def scores(model: CvTModel, stage: ConvTransformerStage) -> Callable[[list], Any]:
    """Return the function from a stage's outputs to the scores (B, classes).

    Scores are logits, or the outputs of a head whose activation is neither softmax nor
    sigmoid.

    Raises:
        ValueError: If later layers also read what earlier ones computed.
    """
    head, activation, _ = find_head(model)
    assert head is not None, "the caller has looked"
    to_logits = activation in ("softmax", "sigmoid")

    def build():
        scored = model.with_activation(None) if to_logits else model
        given = graphs.node_of(scored, stage).output_tensors
        # Keras 3.13 does not notice.
        if any(node.is_input for node in graphs.nodes([scored.output], given)):
            raise ValueError(
                "Expected a network whose outputs depend on the images through "
                f"{stage.name!r} alone. Received: {model.name!r}, in which later "
                "layers also read what earlier ones computed"
            )
        return keras.Model(given, scored.output)

    # Another activation, quantization and LoRA change what the part has of the head.
    rest = _part(model, (stage.name, str(head.get_config())), build)
    copied, _, _ = find_head(rest)
    if to_logits and copied is not None:
        # It has the head's weights of when the part was built.
        copied.set_weights(head.get_weights())
    return functools.partial(rest, training=False)


def _part(model, key, build):
    parts = _PARTS.setdefault(model, {})
    if key not in parts:
        parts[key] = build()
    return parts[key]
