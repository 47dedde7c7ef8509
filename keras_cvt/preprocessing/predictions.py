"""From a CvT's scores to the names of the ImageNet-1k classes."""

import functools
import importlib.resources
import json
from typing import Any

import numpy as np

from keras_cvt.preprocessing.arrays import to_numpy

_NUM_CLASSES = 1000


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Name the ImageNet-1k classes with the highest scores.

    Args:
        preds: Scores (B, 1000), probabilities or logits: an array or an eager
            tensor of any backend.
        top: How many classes to name an image, 1-1000.

    Returns:
        A list an image of `(wnid, name, score)`, highest score first, as
        `keras.applications` returns them.

    Raises:
        ValueError: If `preds` is not (B, 1000) or `top` is not in 1-1000.

    Example:
        >>> decode_predictions(np.eye(1000)[:1], top=1)
        [[('n01440764', 'tench', 1.0)]]
    """
    if (
        isinstance(top, bool)
        or not isinstance(top, int)
        or not 1 <= top <= _NUM_CLASSES
    ):
        raise ValueError(
            f"`top` must be an integer from 1 to {_NUM_CLASSES}. Received: top={top!r}"
        )
    scores = to_numpy(preds)
    if scores.ndim != 2 or scores.shape[1] != _NUM_CLASSES:
        raise ValueError(
            "`preds` must be the scores of the ImageNet-1k classes, of shape "
            f"(batch, {_NUM_CLASSES}). Received: shape={scores.shape}"
        )
    classes = imagenet_classes()
    decoded = []
    for row in scores.astype("float64"):
        best = np.argsort(-row, kind="stable")[:top]
        decoded.append([(*classes[index], float(row[index])) for index in best])
    return decoded


def imagenet_labels() -> list[str]:
    """Return the names of the ImageNet-1k classes, in the order of the logits."""
    return [name for _, name in imagenet_classes()]


@functools.cache
def imagenet_classes() -> list[tuple[str, str]]:
    """Return (wnid, name) of each ImageNet-1k class, in the order of the logits."""
    path = importlib.resources.files("keras_cvt") / "assets/imagenet_class_index.json"
    classes = json.loads(path.read_text(encoding="utf-8"))
    return [tuple(classes[str(index)]) for index in range(_NUM_CLASSES)]
