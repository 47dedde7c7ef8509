"""Atomic file writes and hashes."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Files are written inside a folder whose name starts like this, then renamed.
TEMPORARY = ".writing-"
# The writing process holds a lock on this file in it, which dies with the process.
_LOCK = ".lock"


@contextlib.contextmanager
def staged(path: Path, merge: bool = False) -> Iterator[Path]:
    """Write a file or folder under a temporary name, then rename it.

    If the block raises, whatever was at `path` before stays as it was.

    Args:
        path: Where the file or folder goes. Its parent is created.
        merge: Whether a folder's files are moved one by one into a folder that
            exists. Otherwise the new folder replaces the old one.

    Yields:
        A path of the same name in a temporary folder. Files that are written beside
        it are moved along.
    """
    with temporary_folder(path.parent) as folder:
        written = folder / "new" / path.name
        written.parent.mkdir()
        yield written
        if merge and written.is_dir():
            path.mkdir(exist_ok=True)
            written, path = written / "-", path / "-"
        # The file of that name comes last: whoever finds it finds all of it.
        for file in sorted(written.parent.iterdir(), key=lambda f: f == written):
            _replace(file, path.with_name(file.name), folder)


def _replace(file, target, folder):
    """Move a file or folder to `target`, where other processes may do so as well."""
    for attempt in itertools.count():
        # A folder cannot replace one that has files in a single step.
        with contextlib.suppress(FileNotFoundError):
            if target.is_dir():
                os.rename(target, folder / f"old{attempt}")
        try:
            os.replace(file, target)
            return
        except OSError as error:
            # Another process has put its folder there meanwhile.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file or folder completely or not at all; see `staged`."""
    with staged(path) as temporary:
        write(temporary)


def write_named(
    folder: Path, write: Callable[[Path], Any], name: Callable[[Path], str]
) -> Path:
    """Write a file whose name depends on its content, completely or not at all.

    Args:
        folder: Where the file goes. It is created.
        write: Writes the file to the path that it gets.
        name: Returns the file's name, given the written file.

    Returns:
        The file's path.
    """
    with temporary_folder(folder) as temporary:
        written = temporary / "content"
        write(written)
        path = folder / name(written)
        os.replace(written, path)
    return path


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a folder in another one, which is created, and delete it in the end.

    If the process is killed, the next file that is written there deletes it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=TEMPORARY) as folder:
        unlocked = Path(folder) / f"{_LOCK}.new"
        unlocked.touch()
        with lock(unlocked):
            # Only now, so that no other process finds it unlocked.
            os.rename(unlocked, Path(folder) / _LOCK)
            yield Path(folder)


def remove_leftovers(parent: Path) -> None:
    """Delete the temporary folders that killed processes left in a folder.

    Those of processes that still run, on any machine that shares the disk, stay.
    """
    for folder in parent.glob(TEMPORARY + "*"):
        with lock(folder / _LOCK) as abandoned:
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[bool | None]:
    """Lock a file until the block ends, or the process.

    Yields:
        Whether it was free. None if nobody can tell: there is no such file, or its
        disk or Windows has no such locks.
    """
    with contextlib.ExitStack() as stack:
        try:
            import fcntl

            file = stack.enter_context(path.open("r+b"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except (ImportError, OSError):
            yield None
        else:
            yield True


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file completely or not at all."""
    write_whole(path, lambda temporary: shutil.copyfile(source, temporary))


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file completely or not at all."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def save_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Write arrays to a `.safetensors` file.

    Raises:
        OSError: If it cannot be written. safetensors itself has its own error.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # Not `ascontiguousarray`, which makes vectors of numbers.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        save_file(arrays, path, metadata)
    except SafetensorError as error:
        raise OSError(f"{path.name} cannot be written: {error}") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
