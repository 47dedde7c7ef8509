"""Images to try a file with where there are none at hand."""

import numpy as np


def made_up_images(
    height: int, width: int, channels: int, count: int = 8
) -> np.ndarray:
    """Return smooth images of all colours; noise would be no picture of anything.

    Args:
        height: In pixels.
        width: In pixels.
        channels: Of each image.
        count: How many images.

    Returns:
        float32 (count, height, width, channels) in 0-255, the same every time.
    """
    from PIL import Image

    coarse = np.random.default_rng(0).uniform(0, 255, (count, channels, 7, 7))
    planes = [
        [
            Image.fromarray(plane.astype("float32")).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for plane in image
        ]
        for image in coarse
    ]
    images = np.stack([np.stack(image, axis=-1) for image in planes])
    return np.clip(images, 0, 255)
