"""The evaluation transform with PIL, for files, PIL images and arrays."""

import math
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.arrays import describe, is_array, to_pixels
from keras_cvt.preprocessing.transform import (
    check_size,
    crop_offset,
    resized_size,
    vertical_first,
)

# Most pixels of a resized image that is made whole, and then cropped.
_MOST_RESIZED = 2**26


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
    old_height, old_width = channel.shape
    check_size(old_height, old_width)
    (new_height, new_width), (top, left) = _geometry(transform, *channel.shape)
    height, width = transform.image_size

    def resize(channel, new_size, part):
        resized = _resize_part(Image.fromarray(channel), new_size, part)
        return np.clip(np.asarray(resized), 0, 255)

    if vertical_first(*channel.shape, new_height, new_width):
        rows = (0, top, old_width, top + height)
        channel = resize(channel, (old_width, new_height), rows)
        return resize(channel, (new_width, height), (left, 0, left + width, height))
    columns = (left, 0, left + width, old_height)
    channel = resize(channel, (new_width, old_height), columns)
    return resize(channel, (width, new_height), (0, top, width, top + height))


def transform_pil(image: Image.Image, transform: EvalTransform) -> np.ndarray:
    """Resize and crop an image of 8 bits per channel to float32 (H, W) or (H, W, C)."""
    check_size(image.height, image.width)
    new_size, (top, left) = _geometry(transform, image.height, image.width)
    height, width = transform.image_size
    part = (left, top, left + width, top + height)
    return np.asarray(_resize_part(image, new_size[::-1], part), "float32")


def _geometry(transform, height, width):
    """Return the (height, width) to resize to, and where the crop starts in it."""
    new_size = resized_size(transform, height, width)
    crops = zip(new_size, transform.image_size, strict=True)
    return new_size, [crop_offset(new, crop) for new, crop in crops]


def _resize_part(image, new_size, part):
    """Resize to (width, height), and return the part (left, top, right, bottom)."""
    if math.prod(new_size) <= _MOST_RESIZED:
        return image.resize(new_size, Image.Resampling.BICUBIC).crop(part)
    # Of an extremely long image, the rest is never made. Not always, because PIL rounds
    # the box to float32. It is smaller without the pixels that have no part in it.
    box, kept = [0.0] * 4, [0] * 4
    for axis, (old, new) in enumerate(zip(image.size, new_size, strict=True)):
        first, last = part[axis] * old / new, part[axis + 2] * old / new
        margin = 2 * max(old / new, 1) + 1
        kept[axis] = max(math.floor(first - margin), 0)
        kept[axis + 2] = min(math.ceil(last + margin), old)
        box[axis], box[axis + 2] = first - kept[axis], last - kept[axis]
    size = (part[2] - part[0], part[3] - part[1])
    return image.crop(kept).resize(size, Image.Resampling.BICUBIC, box)


def to_pil(image: Any) -> Image.Image:
    """Return a PIL image or an image file as RGB.

    Raises:
        FileNotFoundError: If the file does not exist.
        TypeError: If `image` is neither a PIL image nor a path.
        ValueError: If PIL cannot read the file, if the image has no pixels or is too
            large, or if its pixels are not in 0-255.
    """
    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"The image has no pixels. Received: {image!r}")
        return _to_rgb(image)
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(
            "Images must be a path, a PIL image, an array, a tensor, or a list of "
            f"these. Received: {describe(image)}"
        )
    return read_rgb(image)


def read_rgb(file: "str | os.PathLike | BinaryIO") -> Image.Image:
    """Read an image file, or the first frame of an animation, as RGB.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If PIL cannot read the file, if it has too many pixels, or if its
            pixels are not in 0-255.
    """
    try:
        with Image.open(file) as opened:
            check_size(opened.height, opened.width)
            opened.load()  # only then is the mode of icons known
            return _to_rgb(opened)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # the readers of the formats raise many types
        reason = str(error).rstrip(".")
        reason = reason[:1].lower() + reason[1:]
        message = f"The file cannot be read as an image: {reason}"
        if isinstance(file, (str, os.PathLike)):
            # What keras_cvt refuses says already what it received.
            message += ", in" if "Received: " in reason else ". Received:"
            message += f" {os.fspath(file)!r}"
        raise ValueError(message) from error


def _to_rgb(image):
    """Convert to RGB. Transparency is dropped; 16 bits become 8 as in colour images."""
    # These files have 16 bits, which PIL may open as 32.
    if image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    ):
        values = np.asarray(image)
        # Cameras and microscopes write 12 bits so, which would be almost black.
        if image.format == "TIFF" and 0 < values.max() < 4096:
            raise ValueError(
                "Expected grey values of 16 bits in 0-65535. These may have fewer "
                "bits; scale them, or save 8 bits. Received: values of at most "
                f"{values.max()}"
            )
        # PIL keeps the upper bytes of colours, but clips grey values at 255.
        image = Image.fromarray((values >> 8).astype("uint8"))
    elif image.mode in ("I", "F"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= 255 or (image.mode == "F" and 0 < high <= 1):
            raise ValueError(
                "Expected grey values of 32 bits in 0-255, since nothing tells their "
                "range; scale them, or save 8 or 16 bits. Received: values from "
                f"{low:.6g} to {high:.6g}"
            )
    return image.convert("RGB")
