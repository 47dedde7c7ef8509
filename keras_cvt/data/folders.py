"""Folders of images: `<split>/<class>/.../<image>`."""

import collections
import logging
import os
from pathlib import Path

from keras_cvt.data.images import SUFFIXES

logger = logging.getLogger(__name__)

# What people call the images that they validate with.
SPLITS = {"validation": ("validation", "val", "test")}
_SHOWN = 5


def find_split(root: Path, split: str) -> Path:
    """Return the folder of a split.

    Raises:
        ValueError: If there is none.
    """
    names = SPLITS.get(split, (split,))
    for name in names:
        if (root / name).is_dir():
            return root / name
    there = _subfolders(root)
    message = (
        f"Expected a folder {' or '.join(map(repr, names))} in {root}. "
        f"Received: {some(there) if there else 'no folder'}"
    )
    prepared = next(root.glob("*/dataset_info.json"), None)
    if prepared:
        message += f". For TensorFlow Datasets, pass {prepared.parent}"
    raise ValueError(message)


def find_images(folder: Path) -> dict[str, list[str]]:
    """Return the sorted paths of each class's images.

    Classes are sorted by name, or by number if all are numbers.

    Raises:
        ValueError: If there is no class folder, or one holds no image.
    """
    names = _subfolders(folder)
    if names and all(name.isascii() and name.isdigit() for name in names):
        names.sort(key=lambda name: (int(name), name))
    if not names:
        raise ValueError(
            f"Expected a folder of images for each class in {folder}. Received: no "
            "folder"
        )
    files, ignored = {}, collections.Counter()
    for name in names:
        files[name], others = _class_images(folder / name)
        ignored += others
    if ignored:
        logger.warning(
            "%s: %d files are no %s and are left out: %s",
            folder,
            ignored.total(),
            ", ".join(SUFFIXES),
            _kinds(ignored),
        )
    return files


def _class_images(folder):
    """Return the images' paths, and what else there is by suffix."""
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
            f"{_kinds(others) if others else 'no file'}"
        )
    return files, others


def _kinds(counter):
    return some([f"{count} {suffix}" for suffix, count in counter.most_common()])


def _subfolders(folder):
    return sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and _visible(entry)
    )


def _visible(entry):
    # .DS_Store, and the ._x.jpg beside x.jpg that macOS leaves on other file systems.
    return not getattr(entry, "name", entry).startswith(".")


def some(names: list | tuple) -> str:
    """Return the first few names, and how many follow, for a message."""
    shown = ", ".join(map(str, names[:_SHOWN]))
    rest = len(names) - _SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
