"""The names and hashes of a repository's files."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from keras_cvt._utils import files
from keras_cvt._utils.errors import CheckpointError

# In the format of `sha256sum`, so that anybody can check a downloaded repository.
SUMS = "SHA256SUMS"

_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def read_sums(path: Path | None) -> dict[str, str]:
    """Return the hashes that a repository records, by file name.

    Args:
        path: The local file, or None if the repository has none.

    Raises:
        CheckpointError: If the file is damaged or names files outside its folder.
    """
    if path is None:
        return {}
    sums = {}
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise CheckpointError(f"{path.name} is not text: {error}") from error
    for line in text.splitlines():
        match = _SUMS_LINE.fullmatch(line)
        if not match:
            raise CheckpointError(
                f"Expected lines of a SHA-256 and a file name in {path.name}. "
                f"Received: {line[:100]!r}"
            )
        check_name(match[2])
        sums[match[2]] = match[1]
    return sums


def write_sums(folder: Path, names: Iterable[str]) -> None:
    """Record the SHA-256 of some of a folder's files in the folder."""
    lines = [f"{files.sha256(folder / name)}  {name}\n" for name in names]
    files.write_text(folder / SUMS, "".join(lines))


def file_names(folder: Path) -> list[str]:
    """Return the names of a folder's files, as a repository has them.

    Raises:
        ValueError: If it holds anything but plain files and folders.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"Expected plain files and folders. Received: {path}")
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != SUMS:
            check_name(name)
            found.append(name)
    return found


def check_name(name: str) -> None:
    """Raise CheckpointError unless `name` is a file's and stays inside its folder."""
    parts = PurePosixPath(name).parts
    odd = any(ord(character) < 32 or character in "\\:" for character in name)
    # Many file systems take at most 255 bytes.
    odd |= any(len(part.encode("utf-8", "replace")) > 255 for part in parts)
    if not parts or odd or name.startswith("/") or ".." in parts or ".git" in parts:
        raise CheckpointError(
            f"Expected a name inside its folder. Received: {name!r:.200}"
        )
