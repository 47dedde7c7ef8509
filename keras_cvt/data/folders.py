"""Folders of images: `<split>/<class>/.../<image>`, or images anywhere in a folder."""

import collections
import hashlib
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

# Files that are taken for images, in lower or upper case.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
# Other names that a split may have.
SPLITS = {"validation": ("validation", "val", "valid", "test")}
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


def has_split(root: Path, split: str) -> bool:
    """Return whether a split has a folder of its own, with class folders in it."""
    paths = [root / name for name in SPLITS.get(split, (split,))]
    return any(path.is_dir() and _subfolders(path) for path in paths)


def find_images(folder: Path) -> dict[str, list[str]]:
    """Return the sorted paths of each class's images.

    Classes are sorted by name, or by number if all are numbers.

    Raises:
        ValueError: If there is no class folder, if a class has no image, or if its
            name is not UTF-8.
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
        if printable(name) != name:
            raise ValueError(
                "The names of class folders become class names, which must be UTF-8. "
                f"Received: {name!r} in {folder}"
            )
        files[name], others = list_images(folder / name)
        if not files[name]:
            raise ValueError(
                f"The class folder {folder / name} holds no image "
                f"({', '.join(SUFFIXES)}). Received: "
                f"{_suffix_counts(others) if others else 'no file'}"
            )
        ignored += others
    if ignored:
        logger.warning(
            f"{folder}: {ignored.total()} files are left out because they are not "
            f"{', '.join(SUFFIXES)}: {_suffix_counts(ignored)}"
        )
    return files


def held_out_count(count: int, share: float) -> int:
    """Return how many of some images are held out: one at least, and not all."""
    return min(max(round(share * count), 1), count - 1)


def hold_out(
    images: dict[str, list[str]], folder: Path, share: float
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Divide the images of each class into those to train on and those held out.

    Those with the smallest hashes of their paths in the folder are held out. So the
    division is the same in each process, on each machine and wherever the folder lies,
    as long as the files of the class stay the same.

    Args:
        images: The paths of each class's images, from `find_images`.
        folder: The folder of the class folders.
        share: The share of each class that is held out.

    Returns:
        The images to train on and those held out, in the order of `images`.

    Raises:
        ValueError: If a class has one image only.
    """
    kept, held_out = {}, {}
    for name, paths in images.items():
        if len(paths) < 2:
            raise ValueError(
                "Expected at least two images in each class, to hold out one. "
                f"Received: {len(paths)} in {folder / name}"
            )

        def place(path):
            inside = os.path.relpath(path, folder).replace(os.sep, "/")
            # Some file systems store accents apart from their letters.
            inside = unicodedata.normalize("NFC", inside)
            return hashlib.sha256(os.fsencode(inside)).digest()

        chosen = set(sorted(paths, key=place)[: held_out_count(len(paths), share)])
        kept[name] = [path for path in paths if path not in chosen]
        held_out[name] = [path for path in paths if path in chosen]
    return kept, held_out


def check_no_splits(images: dict[str, list[str]], folder: Path) -> None:
    """Raise ValueError if class folders look like splits of other names.

    Args:
        images: The paths of each class's images, from `find_images`.
        folder: The folder of the class folders.
    """
    below = {tuple(_subfolders(folder / name)) for name in images}
    direct = {
        name
        for name, paths in images.items()
        if any(os.path.dirname(path) == os.fspath(folder / name) for path in paths)
    }
    if len(images) <= 3 and len(below) == 1 and below != {()} and not direct:
        raise ValueError(
            f"Expected folders of images in {folder}, or `train` and `validation` with "
            f"such folders. Received: {first_few(list(images))}, each with the folders "
            f"{first_few(below.pop())}. Rename them if they are splits. If they are "
            "classes, move them into a folder `train`"
        )


def list_images(folder: Path) -> tuple[list[str], collections.Counter[str]]:
    """Return the sorted paths of the images in a folder and in those below it.

    This is the rule of all pipelines and commands. Hidden files and folders are
    ignored. Links are followed, but no folder is read twice.

    Returns:
        The paths, and the number of other files by suffix.
    """
    others: collections.Counter[str] = collections.Counter()
    return list(iterate_images(folder, others)), others


def iterate_images(
    folder: Path, others: collections.Counter[str] | None = None
) -> Iterator[str]:
    """Yield what `list_images` lists, in the same order, while it is found.

    The names of one folder at a time are in memory, so that millions of images take no
    more of it than those of the largest folder.

    Args:
        folder: The folder.
        others: Counts the other files by suffix. Defaults to `None`.
    """
    seen = set(map(str, Path(os.path.realpath(folder)).parents))
    # Folders that are still to be read, the next one last.
    waiting = [os.fspath(folder)]
    while waiting:
        directory = waiting.pop()
        real = os.path.realpath(directory)
        if real in seen:
            continue
        seen.add(real)
        below = []
        for entry in _visible(directory):
            suffix = os.path.splitext(entry.name)[1].lower()
            # A link to nothing is an image that cannot be read; a pipe is no image.
            is_file = entry.is_file() or (
                entry.is_symlink() and not os.path.exists(entry.path)
            )
            if entry.is_dir():
                below.append(entry.path)
            elif is_file and suffix in SUFFIXES:
                yield entry.path
            elif others is not None:
                others[suffix or "no suffix"] += 1
        waiting += below[::-1]


def _suffix_counts(counter):
    return first_few([f"{count} {suffix}" for suffix, count in counter.most_common()])


def _subfolders(folder):
    """Return the sorted names of the folders in a folder, without links back up."""
    above = os.path.join(os.path.realpath(folder), "")
    return [
        entry.name
        for entry in _visible(folder)
        if entry.is_dir()
        and not above.startswith(os.path.join(os.path.realpath(entry.path), ""))
    ]


def _visible(folder):
    """Return the entries of a folder, sorted by name; they know what they are."""
    with os.scandir(folder) as entries:
        # macOS leaves .DS_Store, and on other file systems ._x.jpg beside x.jpg.
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def printable(path: str | os.PathLike) -> str:
    r"""Return a path as text, with the bytes of it that are not UTF-8 as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def first_few(names: Sequence[object]) -> str:
    """Return the first few names and the number of the others, for a message."""
    shown = ", ".join(map(str, names[:_SHOWN]))
    rest = len(names) - _SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
