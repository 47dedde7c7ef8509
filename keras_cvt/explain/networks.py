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
from keras_cvt.layers import ConvTransformerStage
from keras_cvt.models import CvTModel

# Model -> name of a part -> the part. Building one adds calls to the model's layers, so
# that each is built once.
_PARTS: weakref.WeakKeyDictionary[keras.Model, dict] = weakref.WeakKeyDictionary()


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


def scores(model: CvTModel, stage: ConvTransformerStage) -> Callable[[list], Any]:
    """Return the function from a stage's outputs to the scores (B, classes).

    Scores are logits, or the outputs of a head whose activation is neither softmax nor
    sigmoid.

    Raises:
        ValueError: If later layers also read what earlier ones computed.
    """
    head, activation, _ = find_head(model)
    assert head is not None, "the caller has looked"
    linear = activation in ("softmax", "sigmoid")

    def build():
        scored = model.with_activation(None) if linear else model
        node = graphs.node_of(scored, stage)
        try:
            return keras.Model(node.output_tensors, scored.output)
        except ValueError as error:
            raise ValueError(
                "Expected a network whose outputs depend on the images through "
                f"{stage.name!r} alone. Received: {model.name!r}, in which later "
                "layers also read what earlier ones computed"
            ) from error

    # Quantization changes the head's variables.
    rest = _part(model, (stage.name, head.quantization_mode), build)
    copied, _, _ = find_head(rest)
    if linear and copied is not None:
        # It has the head's weights of when the part was built.
        copied.set_weights(head.get_weights())
    return functools.partial(rest, training=False)


def _part(model, key, build):
    parts = _PARTS.setdefault(model, {})
    if key not in parts:
        parts[key] = build()
    return parts[key]
