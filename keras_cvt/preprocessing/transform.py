"""Sizes and offsets, in pixels, of the official resize and centre crop."""

from collections.abc import Callable
from typing import Any

import PIL

from keras_cvt.eval_transform import EvalTransform


def resized_size(
    transform: EvalTransform, height: Any, width: Any, maximum: Callable = max
) -> tuple[Any, Any]:
    """Return the (height, width) to resize an image to, before any crop.

    The sizes are ints, or int32 tensors with TensorFlow's `maximum`.
    """
    if transform.crop_ratio is None:
        return transform.image_size
    cover_height, cover_width = (
        int(size / transform.crop_ratio) for size in transform.image_size
    )
    # The scale of either side covers that side; the larger result covers both.
    return (
        maximum(cover_height, cover_width * height // width),
        maximum(cover_width, cover_height * width // height),
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
