"""Folders of images: `<split>/<class>/.../<image>`."""

import collections
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from keras_cvt.data.images import SUFFIXES

logger = logging.getLogger(__name__)

# Other names that a split may have.
SPLITS = {"validation": ("validation", "val", "test")}
_SHOWN = 5


def find_split(root: Path, split: str) -> Path:
    """Return the folder of a split.

    Raises:
        ValueError: If there is no such folder.
    """
    names = SPLITS.get(split, (split,))
    for name in names:
        if (root / name).is_dir():
            return root / name
    found = _subfolders(root)
    message = (
        f"Expected a folder {' or '.join(map(repr, names))} in {root}. "
        f"Received: {first_few(found) if found else 'no folder'}"
    )
    prepared = next(root.glob("*/dataset_info.json"), None)
    if prepared:
        message += f". For TensorFlow Datasets, pass {prepared.parent}"
    raise ValueError(message)


def find_images(folder: Path) -> dict[str, list[str]]:
    """Return the sorted paths of each class's images.

    Classes are sorted by name, or by number if all are numbers.

    Raises:
        ValueError: If there is no class folder, or a class has no image.
    """
    names = _subfolders(folder)
    if names and all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=lambda name: (int(name), name))
    if not names:
        raise ValueError(
            f"Expected a folder of images for each class in {folder}. Received: none"
        )
    files: dict[str, list[str]] = {}
    ignored: collections.Counter[str] = collections.Counter()
    for name in names:
        files[name], others = _class_images(folder / name)
        ignored += others
    if ignored:
        logger.warning(
            f"{folder}: {ignored.total()} files are left out because they are not "
            f"{', '.join(SUFFIXES)}: {_suffix_counts(ignored)}"
        )
    return files


def _class_images(folder):
    """Return the images' paths, and the number of other files by suffix."""
    files, others = [], collections.Counter()
    for directory, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(filter(_visible, folders))
        for name in sorted(filter(_visible, names)):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                files.append(os.path.join(directory, name))
            else:
                others[suffix or "no suffix"] += 1
    if not files:
        raise ValueError(
            f"The class folder {folder} holds no image that TensorFlow reads "
            f"({', '.join(SUFFIXES)}). Received: "
            f"{_suffix_counts(others) if others else 'no file'}"
        )
    return files, others


def _suffix_counts(counter):
    return first_few([f"{count} {suffix}" for suffix, count in counter.most_common()])


def _subfolders(folder):
    return sorted(e.name for e in folder.iterdir() if e.is_dir() and _visible(e.name))


def _visible(name):
    # macOS leaves .DS_Store, and on other file systems ._x.jpg beside x.jpg.
    return not name.startswith(".")


def first_few(names: Sequence[object]) -> str:
    """Return the first few names and the number of the others, for a message."""
    shown = ", ".join(map(str, names[:_SHOWN]))
    rest = len(names) - _SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
