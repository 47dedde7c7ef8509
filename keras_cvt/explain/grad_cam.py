"""Grad-CAM: which positions raise the score of a class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_cvt._utils.gradients import gradient
from keras_cvt._utils.user_warnings import warn
from keras_cvt.description import token_only_stages
from keras_cvt.explain import geometry, networks
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.arrays import to_numpy

_SCALE = 1024


def grad_cam(
    model: CvTModel,
    images: Any,
    class_index: int | Sequence[int] | None = None,
    stage: int = -1,
    upsample: bool = True,
    pool_gradients: bool = False,
) -> np.ndarray:
    """Return which positions raise the score of a class.

    The map is the sum of a stage's channels, each weighted with its gradient; what
    lowers the score is 0. It differs from Grad-CAM for convolutional networks in two
    ways. Each position has its own gradient, because a class token weights the
    positions. And channels count from their mean over the positions, because LayerNorm
    makes the product of a token and its own gradient 0: what the whole picture has in
    common explains nothing. `pool_gradients` computes Grad-CAM as it was published.

    The head of a network with a class token does not read the last stage's map, so that
    its gradient is 0. There the tokens that enter the last block are taken: the last
    that the class token reads.

    Args:
        model: A network of keras_cvt with a head, of any configuration. It may be
            quantized, but not fused.
        images: (B, H, W, C) as the model takes them, of any size that it takes.
        class_index: Index of the class, or one for each image. Defaults to `None`: the
            best class of each image, or the only output.
        stage: Index of the stage. Earlier stages have finer maps that know less of the
            class. Defaults to `-1`, the last.
        upsample: Whether to bring the map from the tokens' grid to the images' pixels,
            each token at the centre of what it sees. Defaults to `True`.
        pool_gradients: Whether to weight channels, from 0, with the mean of their
            gradients over the positions. It finds less in networks with a class token
            (benchmarks/RESULTS.md). Defaults to `False`.

    Returns:
        float32 (B, H, W), or (B, h, w) of the stage's tokens with `upsample=False`. The
        tokens' largest value is 1 for each image.

    Raises:
        TypeError: If the model is not a `CvTModel`.
        ValueError: If it is fused or has no head, if the images do not fit, if there is
            no such stage or class, or if later layers also read earlier ones.

    Warns:
        UserWarning: If no position raises the score of an image, whose map is then 0.

    Reference:
        Selvaraju et al., "Grad-CAM", arXiv 1610.02391. Gradients of each position:
        Draelos and Carin, "HiResCAM", arXiv 2011.08891.
    """
    networks.check(model, images)
    if not model.classes:
        raise ValueError(
            "Expected a network with a head, whose scores have gradients. "
            f"Received: {model.name!r} without a head"
        )
    index = networks.check_index("stage", stage, len(model.stages))
    layer = model.stages[index]
    tokens, rest, grid, size = _cut(model, layer, images)
    score_all = networks.scores(model, layer)

    def scores(tokens):
        return score_all(rest(tokens))

    classes = _classes(model, class_index, len(images))
    if classes is None:
        classes = to_numpy(scores(tokens)).argmax(axis=-1)
    # The map's size does not matter, and float16 has no small gradients.
    chosen = _SCALE * np.eye(model.classes, dtype="float32")[classes]

    def score(tokens):
        return ops.sum(ops.multiply(ops.cast(scores(tokens), "float32"), chosen))

    slopes = gradient(score, tokens)
    tokens, slopes = (to_numpy(x).astype("float32") for x in (tokens, slopes))
    if layer.config.cls_token:
        tokens, slopes = tokens[:, 1:], slopes[:, 1:]
    if pool_gradients:
        slopes = slopes.mean(axis=1, keepdims=True)
    else:
        tokens = tokens - tokens.mean(axis=1, keepdims=True)
    cam = np.maximum((tokens * slopes).sum(axis=-1), 0).reshape(-1, *grid)
    largest = cam.max(axis=(1, 2))
    cam /= np.where(largest > 0, largest, 1)[:, None, None]
    if not largest.all():
        empty = np.flatnonzero(largest == 0)
        warn(
            "No position raises the score of the class; the map is 0. Images "
            f"{empty.tolist()}, classes {classes[empty].tolist()}."
        )
    if not upsample:
        return cam
    cam = geometry.upsample(cam, model.cvt_config.stages[: index + 1], *size)
    return networks.at_size_of(images, model, cam)


def _cut(model, stage, images):
    """Cut a network at the tokens to look at.

    Returns:
        The tokens (B, T, C), a function from them to the stage's outputs, (h, w) of
        their grid and (H, W) of the images that enter the network.
    """
    all_tokens, grid, image_size = networks.block_inputs(model, stage, images)
    before = stage in token_only_stages(model)
    tokens = all_tokens[-2 if before else -1]
    height, width = grid

    def rest(tokens):
        if before:
            block = stage.blocks.blocks[-1]
            tokens = block(tokens, height=height, width=width, training=False)
        outputs = stage.as_outputs(tokens, height, width)
        return list(outputs) if isinstance(outputs, tuple) else [outputs]

    return tokens, rest, grid, image_size


def _classes(model, class_index, count):
    """Return the index of the class of each image, or None for the best ones."""
    if class_index is None:
        if model.classes > 1 and not model.description.is_classifier:
            raise ValueError(
                "Expected `class_index`, since the outputs are not scores of classes. "
                f"Received: class_index=None for {model.classes} outputs of the kind "
                f"{model.output_kind!r}"
            )
        return None
    classes = np.asarray(class_index)
    fits = classes.dtype.kind in "iu" and classes.shape in ((), (count,))
    if not fits or ((classes < 0) | (classes >= model.classes)).any():
        raise ValueError(
            f"Expected `class_index` of 0 to {model.classes - 1}: one integer, or one "
            f"for each of the {count} images. Received: {class_index!r}"
        )
    return np.broadcast_to(classes, count)
