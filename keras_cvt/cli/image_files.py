"""The images that the options of a command name."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cvt.data.folders import list_images
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.batches import preprocess_files
from keras_cvt.preprocessing.images import PathLike


def list_paths(names: Sequence[str]) -> list[Path]:
    """Return the paths of image files. Folders are searched for images.

    Raises:
        ValueError: If a folder contains no images.
    """
    paths: list[Path] = []
    for path in map(Path, names):
        found = list_images(path)[0] if path.is_dir() else [path]
        if not found:
            raise ValueError(f"Expected a folder with images. Received: {path}")
        paths += map(Path, found)
    return paths


def read(names: Sequence[str], transform: EvalTransform) -> np.ndarray | None:
    """Return the named images, prepared for a model, or None if none are named.

    Files that cannot be read are skipped and listed.

    Raises:
        ValueError: If no image can be read.
    """
    if not names:
        return None
    images, _, unreadable = preprocess_files(list_paths(names), transform)
    if not images:
        path, error = unreadable[0]
        raise ValueError(f"Expected images that can be read. Received: {path}: {error}")
    print_skipped(unreadable)
    return np.stack(images)


def print_skipped(unreadable: Sequence[tuple[PathLike, Exception]]) -> None:
    """List files that cannot be read, with the reasons."""
    for path, error in unreadable:
        print(f"keras-cvt: skipped {path}: {error}", file=sys.stderr)
