"""Where tokens and keys lie in an image.

All resampling is separable: a matrix for the rows and one for the columns.
"""

import numpy as np

from keras_cvt.config import StageConfig
from keras_cvt.layers import ConvProjection


def centers(stages: tuple[StageConfig, ...]) -> tuple[int, float]:
    """Return the distance and the first of the centres of a stage's tokens.

    Token `i` sees the pixels around `first + i * distance`. The centres are those of
    the convolutional embeddings, not those of equal tiles: with CvT's strides of 4, 2
    and 2, token `i` of the last stage is at pixel `16 * i + 1`.

    Args:
        stages: The stages from the first to that of the tokens.

    Returns:
        Both in pixels; pixel 0 is the centre of the first pixel.
    """
    distance, first = 1, 0.0
    for stage in stages:
        first += distance * ((stage.patch_size - 1) / 2 - stage.patch_padding)
        distance *= stage.patch_stride
    return distance, first


def interpolation(points: np.ndarray, size: int, outside: bool = False) -> np.ndarray:
    """Return the matrix of linear interpolation of `size` values at `points`.

    Args:
        points: Positions (N,) on the axis of the values, which lie at 0, 1, ...
        size: Number of values.
        outside: Whether positions more than 0.5 off the values give NaN. Otherwise
            they take the nearest value. Defaults to `False`.

    Returns:
        float32 (N, size). Rows sum to 1 or are NaN.
    """
    inside = np.clip(points, 0, size - 1)
    low = np.minimum(inside.astype(int), max(size - 2, 0))
    high = np.minimum(low + 1, size - 1)
    rows = np.arange(len(points))
    matrix = np.zeros((len(points), size), "float32")
    np.add.at(matrix, (rows, low), 1 - (inside - low))
    np.add.at(matrix, (rows, high), inside - low)
    if outside:
        matrix[(points < -0.5) | (points > size - 0.5)] = np.nan
    return matrix


def upsample(
    maps: np.ndarray, stages: tuple[StageConfig, ...], height: int, width: int
) -> np.ndarray:
    """Bring maps of a stage's tokens (B, h, w) to the pixels of the images (B, H, W).

    Each token's value stands at the centre of what it sees; see `centers`.
    """
    distance, first = centers(stages)
    rows, columns = (
        interpolation((np.arange(pixels) - first) / distance, tokens)
        for pixels, tokens in zip((height, width), maps.shape[1:], strict=True)
    )
    return rows @ maps @ columns.T


def resize(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretch maps (B, h, w) to (B, height, width)."""
    rows, columns = (
        interpolation((np.arange(new) + 0.5) * (old / new) - 0.5, old)
        for old, new in zip(maps.shape[1:], (height, width), strict=True)
    )
    return rows @ maps @ columns.T


def key_shares(projection: ConvProjection, size: int) -> np.ndarray:
    """Return the positions that stand for each key, along one axis.

    A key lies at the middle of its kernel. The positions up to the next key stand for
    both, the closer the more, so that equal keys give a smooth map. Equal parts for all
    positions under the kernel would give a chequered one, since kernels overlap.

    Args:
        projection: The projection of the keys.
        size: Number of positions of the queries' grid along the axis.

    Returns:
        float32 (keys, size). Rows sum to 1.
    """
    if projection.projection == "linear":
        return np.eye(size, dtype="float32")
    keys = projection.compute_output_shape((None, size, size, None))[1]
    first = (projection.kernel_size - 1) / 2 - projection.padding
    shares = interpolation((np.arange(size) - first) / projection.stride, keys).T
    # Keys between two positions, or in the padding, may be next to none.
    middles = np.round(first + projection.stride * np.arange(keys)).astype(int)
    alone = shares.sum(axis=1) == 0
    shares[alone, np.clip(middles, 0, size - 1)[alone]] = 1
    return shares / shares.sum(axis=1, keepdims=True)
