"""The evaluation transform by PIL, on files, PIL images and arrays."""

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.arrays import describe, is_array, pixels
from keras_cvt.preprocessing.transform import (
    crop_offset,
    resized_size,
    vertical_first,
)

if TYPE_CHECKING:
    import PIL.Image


def transform_arrays(images: Any, transform: EvalTransform) -> np.ndarray:
    """Resize and crop an array (H, W, C) or (B, H, W, C) to a batch."""
    array = pixels(images)
    batch = array if array.ndim == 4 else array[None]
    return np.stack([_transform_array(image, transform) for image in batch])


def transform_list(images: list | tuple, transform: EvalTransform) -> np.ndarray:
    """Resize and crop paths, PIL images and arrays, one image each, to a batch."""
    if not images:
        raise ValueError(f"`images` holds no image. Received: {images!r}")
    batch = []
    for index, image in enumerate(images):
        if not is_array(image):
            batch.append(transform_pil(to_pil(image), transform))
            continue
        array = pixels(image)
        if array.ndim != 3:
            raise ValueError(
                "Each element of a list must be one image (H, W, C). "
                f"Received: images[{index}] of shape {array.shape}"
            )
        batch.append(_transform_array(array, transform))
    channels = [image.shape[-1] for image in batch]
    if len(set(channels)) > 1:
        raise ValueError(
            "The images of a batch must have the same number of channels. "
            f"Received: channels={channels}"
        )
    return np.stack(batch)


def _transform_array(image: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """Resize and crop an image (H, W, C) of uint8 or float32."""
    from PIL import Image

    if image.dtype != np.uint8:
        channels = [_transform_float(c, transform) for c in np.moveaxis(image, -1, 0)]
    elif image.shape[-1] == 3:
        return transform_pil(Image.fromarray(image), transform)
    else:
        # Not as RGBA: PIL would multiply the colours by what it takes for alpha.
        channels = [
            transform_pil(Image.fromarray(c), transform)
            for c in np.moveaxis(image, -1, 0)
        ]
    return np.stack(channels, axis=-1)


def _transform_float(channel: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """Resize and crop one channel (H, W) of float32.

    Clipped between the passes as 8-bit images are; otherwise a float image would be
    up to 10 levels away from the same image in uint8.
    """
    from PIL import Image

    height, width = channel.shape
    new_height, new_width = resized_size(transform, height, width)
    sizes = [(new_width, height), (new_width, new_height)]
    if vertical_first(height, width, new_height, new_width):
        sizes[0] = (width, new_height)
    for size in sizes:
        image = Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC)
        channel = np.clip(np.asarray(image), 0, 255)
    return _crop(channel, transform)


def transform_pil(image: "PIL.Image.Image", transform: EvalTransform) -> np.ndarray:
    """Resize and crop an image of 8 bits a channel to float32 (h, w[, C])."""
    from PIL import Image

    height, width = resized_size(transform, image.height, image.width)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return _crop(np.asarray(resized, "float32"), transform)


def _crop(image: np.ndarray, transform: EvalTransform) -> np.ndarray:
    height, width = transform.image_size
    top = crop_offset(image.shape[0], height)
    left = crop_offset(image.shape[1], width)
    return image[top : top + height, left : left + width]


def to_pil(image: Any) -> "PIL.Image.Image":
    """Return a PIL image or an image file as RGB."""
    from PIL import Image

    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"The image has no pixels. Received: {image!r}")
        return image.convert("RGB")
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(
            "An image must be a path, a PIL image, an array or a tensor, or a list "
            f"of these. Received: {describe(image)}"
        )
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(
            f"PIL cannot read this file as an image: {error}. "
            f"Received: {os.fspath(image)!r}"
        ) from error
