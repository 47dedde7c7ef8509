"""The evaluation transform with PIL, for files, PIL images and arrays."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.arrays import describe, is_array, to_pixels
from keras_cvt.preprocessing.transform import crop_offset, resized_size, vertical_first


def transform_arrays(images: Any, transform: EvalTransform) -> np.ndarray:
    """Resize and crop an array (H, W, C) or (B, H, W, C) to a batch."""
    array = to_pixels(images)
    batch = array if array.ndim == 4 else array[None]
    return np.stack([_transform_array(image, transform) for image in batch])


def transform_list(images: Sequence[Any], transform: EvalTransform) -> np.ndarray:
    """Resize and crop a list of paths, PIL images and arrays to a batch."""
    if not images:
        raise ValueError(f"`images` has no image. Received: images={images!r}")
    batch = []
    for index, image in enumerate(images):
        if not is_array(image):
            batch.append(transform_pil(to_pil(image), transform))
            continue
        array = to_pixels(image)
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


def _transform_array(image, transform):
    """Resize and crop an image (H, W, C) of uint8 or float32."""
    if image.dtype == np.uint8 and image.shape[-1] == 3:
        return transform_pil(Image.fromarray(image), transform)
    # Not as RGBA: PIL would multiply the colours by the fourth channel.
    channels = np.moveaxis(image, -1, 0)
    return np.stack([_transform_channel(c, transform) for c in channels], axis=-1)


def _transform_channel(channel, transform):
    """Resize and crop one channel (H, W) of uint8 or float32.

    Floats are clipped between the passes, as PIL clips 8-bit images. Otherwise a
    float image would be up to 10 levels away from the same image in uint8.
    """
    if channel.dtype == np.uint8:
        return transform_pil(Image.fromarray(channel), transform)
    height, width = channel.shape
    new_height, new_width = resized_size(transform, height, width)
    sizes = [(new_width, height), (new_width, new_height)]
    if vertical_first(height, width, new_height, new_width):
        sizes[0] = (width, new_height)
    for size in sizes:
        image = Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC)
        channel = np.clip(np.asarray(image), 0, 255)
    return _crop(channel, transform)


def transform_pil(image: Image.Image, transform: EvalTransform) -> np.ndarray:
    """Resize and crop an image of 8 bits per channel to float32 (H, W) or (H, W, C)."""
    height, width = resized_size(transform, image.height, image.width)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return _crop(np.asarray(resized, "float32"), transform)


def _crop(image, transform):
    height, width = transform.image_size
    top = crop_offset(image.shape[0], height)
    left = crop_offset(image.shape[1], width)
    return image[top : top + height, left : left + width]


def to_pil(image: Any) -> Image.Image:
    """Return a PIL image or an image file as RGB.

    Raises:
        FileNotFoundError: If the file does not exist.
        TypeError: If `image` is neither a PIL image nor a path.
        ValueError: If PIL cannot read the file, or the image has no pixels.
    """
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"The image has no pixels. Received: {image!r}")
        return image.convert("RGB")
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(
            "Images must be a path, a PIL image, an array, a tensor, or a list of "
            f"these. Received: {describe(image)}"
        )
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # the readers of the formats raise many types
        raise ValueError(
            f"PIL cannot read this file as an image: {error}. "
            f"Received: {os.fspath(image)!r}"
        ) from error
