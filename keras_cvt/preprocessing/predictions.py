"""From the scores of a CvT to class names."""

import functools
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cvt._utils import validation
from keras_cvt.preprocessing.arrays import to_numpy

_NUM_CLASSES = 1000


def decode_predictions(
    preds: Any, top: int = 5, class_names: Sequence[str] | None = None
) -> list[list[tuple[Any, ...]]]:
    """Return the classes with the highest scores.

    Args:
        preds: Probabilities or logits (B, classes): an array or an eager tensor of any
            backend.
        top: How many classes to return for each image, 1-1000. Defaults to `5`. If
            there are fewer, all of them are returned.
        class_names: A name for each class, such as `model.class_names`. Defaults to
            `None`: the 1000 classes of ImageNet-1k.

    Returns:
        One list per image, highest score first: of `(wnid, name, score)`, as
        `keras.applications` returns them, or with `class_names` of `(name, score)`.

    Raises:
        ValueError: If `preds` does not have one score for each class, or `top` is not
            in 1-1000.

    Example:
        >>> decode_predictions(np.eye(1000)[:1], top=1)
        [[('n01440764', 'tench', 1.0)]]
        >>> decode_predictions(np.eye(2)[:1], class_names=["daisy", "rose"])
        [[('daisy', 1.0), ('rose', 0.0)]]
    """
    validation.check_int(1, top=top)
    validation.check_at_most(_NUM_CLASSES, top=top)
    scores = to_numpy(preds)
    classes: Sequence[tuple[str, ...]] = imagenet_classes()
    if class_names is not None:
        count = scores.shape[-1] if scores.ndim else 1
        names = validation.check_class_names(class_names, count)
        classes = [(name,) for name in names]
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        raise ValueError(
            f"`preds` must be the scores of {len(classes)} classes, of shape "
            f"(batch, {len(classes)}). For other classes than those of ImageNet-1k, "
            f"pass `class_names=model.class_names`. Received: shape={scores.shape}"
        )
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
