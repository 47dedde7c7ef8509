"""Folders of real image files for tests."""

import numpy as np
from PIL import Image


def write_image(path, seed=0, size=(20, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype="uint8")
    Image.fromarray(pixels).convert(mode).save(path)


def write_folder(root, splits=("train", "validation"), classes=("cat", "dog"), count=6):
    """Write `count` images for each class and split."""
    seed = 0
    for split in splits:
        for name in classes:
            for i in range(count):
                seed += 1
                suffix = (".jpg", ".png")[i % 2]
                write_image(root / split / name / f"{i}{suffix}", seed)
    return root
