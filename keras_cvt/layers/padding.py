"""Zero padding as PyTorch does it: the same on every side."""

from keras import ops


def pad_map(x, before: int, after: int | None = None):
    """Pad height and width of a map (B, H, W, C) with zeros."""
    after = before if after is None else after
    if before == 0 and after == 0:
        return x
    return ops.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
