"""Images for trying out a file when there are no photos."""

import numpy as np


def made_up_images(
    height: int, width: int, channels: int, count: int = 8
) -> np.ndarray:
    """Return smooth images of all colours, the same in every call.

    They are smooth because photos are: a network may answer noise differently.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        channels: Number of channels.
        count: Number of images. Defaults to `8`.

    Returns:
        float32 (count, height, width, channels) of 0-255.
    """
    from PIL import Image

    coarse = np.random.default_rng(0).uniform(0, 255, (count, channels, 7, 7))
    size, planes = (width, height), []
    for plane in map(Image.fromarray, coarse.reshape(-1, 7, 7).astype("float32")):
        planes.append(np.asarray(plane.resize(size, Image.Resampling.BICUBIC)))
    images = np.stack(planes).reshape(count, channels, height, width)
    return np.clip(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), 0, 255)
