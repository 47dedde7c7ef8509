"""Sizes and offsets, in pixels, of the official resize and centre crop."""

from collections.abc import Callable
from typing import Any

import PIL
from PIL import Image

from keras_cvt.eval_transform import EvalTransform

# JPEG has no longer side.
MAX_SIDE = 65_535


def max_pixels() -> int:
    """Return the most pixels that Pillow reads: twice `Image.MAX_IMAGE_PIXELS`."""
    limit = Image.MAX_IMAGE_PIXELS
    return 2**62 if limit is None else 2 * limit


def size_limit() -> str:
    """Return the limits of an image's size in words."""
    return (
        f"Expected an image of at most {max_pixels():,} pixels (Pillow's limit, twice "
        f"`PIL.Image.MAX_IMAGE_PIXELS`) and {MAX_SIDE:,} pixels a side"
    )


def check_size(height: int, width: int) -> None:
    """Raise ValueError for an image that would take gigabytes to resize."""
    if height * width > max_pixels() or max(height, width) > MAX_SIDE:
        raise ValueError(f"{size_limit()}. Received: {height} x {width} pixels")


def resized_size(
    transform: EvalTransform, height: Any, width: Any, maximum: Callable = max
) -> tuple[Any, Any]:
    """Return the (height, width) to resize an image to, before any crop.

    The sizes are ints, or int64 tensors with TensorFlow's `maximum`.
    """
    if transform.crop_ratio is None:
        return transform.image_size
    cover_height, cover_width = (
        int(size / transform.crop_ratio) for size in transform.image_size
    )
    # The scale of either side covers that side; the larger result covers both.
    return (
        maximum(cover_width * height // width, cover_height),
        maximum(cover_height * width // height, cover_width),
    )


def crop_offset(size: Any, crop: int) -> Any:
    """Return torchvision's `int(round((size - crop) / 2))`: half rounds to even."""
    half, rest = (size - crop) // 2, (size - crop) % 2
    return half + rest * (half % 2)


def vertical_first(height: Any, width: Any, new_height: Any, new_width: Any) -> Any:
    """Tell whether PIL resizes the height before the width.

    PIL clips and rounds between its two passes, so that their order matters: the
    wrong one is up to 13 levels off at sharp edges. Since version 13, Pillow starts
    with the height if that shrinks by more than twice as many pixels as the width.
    """
    if int(PIL.__version__.split(".")[0]) < 13:
        return False
    shrinks = height > new_height
    return shrinks & (height - new_height > 2 * (width - new_width))
