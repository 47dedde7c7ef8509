"""Class names of ImageNet-1k for the scores of a CvT."""

import functools
import importlib.resources
import json
from typing import Any

import numpy as np

from keras_cvt._utils import validation
from keras_cvt.preprocessing.arrays import to_numpy

_NUM_CLASSES = 1000


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Return the ImageNet-1k classes with the highest scores.

    Args:
        preds: Probabilities or logits (B, 1000): an array or an eager tensor of any
            backend.
        top: How many classes to return for each image, 1-1000. Defaults to `5`.

    Returns:
        One list per image of `(wnid, name, score)`, highest score first, as
        `keras.applications` returns them.

    Raises:
        ValueError: If `preds` is not (B, 1000) or `top` is not in 1-1000.

    Example:
        >>> decode_predictions(np.eye(1000)[:1], top=1)
        [[('n01440764', 'tench', 1.0)]]
    """
    validation.check_int(1, top=top)
    validation.check_at_most(_NUM_CLASSES, top=top)
    scores = to_numpy(preds)
    if scores.ndim != 2 or scores.shape[1] != _NUM_CLASSES:
        raise ValueError(
            "`preds` must be the scores of the ImageNet-1k classes, of shape "
            f"(batch, {_NUM_CLASSES}). For other classes, look up the best ones in "
            f"`model.class_names`. Received: shape={scores.shape}"
        )
    classes = imagenet_classes()
    decoded = []
    for row in scores.astype("float64"):
        best = np.argsort(-row, kind="stable")[:top]
        decoded.append([(*classes[index], float(row[index])) for index in best])
    return decoded


def imagenet_class_names() -> list[str]:
    """Return the names of the ImageNet-1k classes, in the order of the logits."""
    return [name for _, name in imagenet_classes()]


@functools.cache
def imagenet_classes() -> list[tuple[str, str]]:
    """Return (wnid, name) of each ImageNet-1k class, in the order of the logits."""
    path = importlib.resources.files("keras_cvt") / "assets/imagenet_class_index.json"
    classes = json.loads(path.read_text(encoding="utf-8"))
    return [tuple(classes[str(index)]) for index in range(_NUM_CLASSES)]
