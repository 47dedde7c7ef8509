"""Sizes of tensors."""

from keras import ops


def size(x, axis: int):
    """Return a tensor's size along an axis, as an integer wherever it is known.

    On TensorFlow `ops.shape` is an operation of the graph, known or not, and there are
    hundreds of them in a training step.
    """
    known = x.shape[axis]
    return ops.shape(x)[axis] if known is None else known
