"""PyTorch's zero padding, which is the same on every side."""

from typing import Any

from keras import ops


def pad_map(x: Any, before: int, after: int | None = None) -> Any:
    """Pad a feature map (B, H, W, C) with zeros.

    Args:
        x: The feature map.
        before: Number of rows on top and of columns on the left.
        after: Number of rows at the bottom and of columns on the right. Defaults to
            `None`, the same as `before`.
    """
    after = before if after is None else after
    if before == 0 and after == 0:
        return x
    return ops.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
