"""How the official evaluation resizes and crops: sizes and offsets in pixels."""

from collections.abc import Callable
from typing import Any

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
    # The smaller scale falls short on one side, where the other's result is larger.
    return (
        maximum(cover_height, cover_width * height // width),
        maximum(cover_width, cover_height * width // height),
    )


def crop_offset(size: Any, crop: int) -> Any:
    """Return torchvision's `int(round((size - crop) / 2))`: halves go to even."""
    half, rest = (size - crop) // 2, (size - crop) % 2
    return half + rest * (half % 2)


def vertical_first(height: Any, width: Any, new_height: Any, new_width: Any) -> Any:
    """Tell which of PIL's two passes comes first; between them, it clips and rounds.

    Since 13, Pillow starts with the height where that shrinks by more than twice as
    many pixels as the width. The other order is up to 13 levels off at sharp edges.
    """
    from PIL import __version__ as version

    if int(version.split(".")[0]) < 13:
        return False
    shrinks = height > new_height
    return shrinks & (height - new_height > 2 * (width - new_width))
