"""Sizes of tensors."""

from typing import Any

from keras import ops


def size(x: Any, axis: int) -> Any:
    """Return a tensor's size along an axis: an integer if it is known.

    On TensorFlow, `ops.shape` adds an operation to the graph even if the size is known.
    A training step would contain hundreds of them.
    """
    known = x.shape[axis]
    return ops.shape(x)[axis] if known is None else known
