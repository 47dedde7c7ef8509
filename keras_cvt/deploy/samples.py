"""Images to try a file with where there are none at hand."""

import numpy as np

_COUNT = 8


def made_up_images(height: int, width: int, channels: int) -> np.ndarray:
    """Return 8 smooth images of all colours; noise would be no picture of anything.

    Args:
        height: In pixels.
        width: In pixels.
        channels: Of each image.

    Returns:
        float32 (8, height, width, channels) in 0-255, the same every time.
    """
    from PIL import Image

    coarse = np.random.default_rng(0).uniform(0, 255, (_COUNT, channels, 7, 7))
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
