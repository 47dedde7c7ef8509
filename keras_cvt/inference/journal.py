"""Rows that are written while they are computed, and survive a kill."""

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_cvt._utils import files


class Journal:
    """A file of JSON lines beside the output: a header, then a row for each image.

    It is locked as long as it is open. After a kill, `resume` keeps the rows of all
    complete batches. `finish` deletes it, when the output has been written from it.

    Args:
        path: The journal's path.
        header: What the rows depend on, as JSON can hold it.
        batch_size: Number of rows per batch.
        resume: Whether rows of an earlier process may be in it.

    Attributes:
        count: Number of rows in it.

    Raises:
        FileExistsError: If there is a journal and `resume` is False, or another
            process is writing it.
        ValueError: If its rows depend on something else.
        OSError: If it cannot be written.
    """

    def __init__(
        self, path: Path, header: Mapping[str, Any], batch_size: int, resume: bool
    ):
        self.path = path
        # As JSON gives it back.
        self._header = json.loads(json.dumps(header))
        self.count = 0
        self._stack = contextlib.ExitStack()
        existed = path.is_file()
        if existed and not resume:
            raise FileExistsError(
                f"{path} has the rows of a run that was interrupted. Continue it with "
                "`resume=True`, or delete that file."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        with contextlib.ExitStack() as stack:
            if stack.enter_context(files.lock(path)) is False:
                raise FileExistsError(f"Another process is writing {path}.")
            self._file = stack.enter_context(path.open("r+b"))
            if not self._restore(batch_size):
                self._file.truncate(0)
                self._file.seek(0)
                self._write([self._header])
            self._stack = stack.pop_all()

    def _restore(self, batch_size):
        """Go behind the last complete batch; return whether there is a header."""
        first = self._file.readline()
        if not first.endswith(b"\n"):
            return False  # It is new, or the process was killed at once.
        found = _parse(first) or {}
        names = self._header.keys() | found.keys()
        other = sorted(n for n in names if found.get(n) != self._header.get(n))
        if other:
            raise ValueError(
                f"{self.path} was begun with other settings. Repeat them, or delete "
                f"that file. Expected: {_pick(found, other)}. Received: "
                f"{_pick(self._header, other)}"
            )
        end, rows = self._file.tell(), 0
        while True:
            lines = list(itertools.islice(self._file, batch_size))
            # A crash of the machine may leave anything in the last block.
            if len(lines) < batch_size or None in map(_parse, lines):
                break
            end, rows = self._file.tell(), rows + batch_size
        self._file.truncate(end)
        self._file.seek(end)
        self.count = rows
        return True

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the rows of a batch."""
        self.count += self._write(rows)

    def _write(self, rows):
        lines = [json.dumps(row).encode() + b"\n" for row in rows]
        self._file.write(b"".join(lines))
        self._file.flush()
        return len(lines)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows."""
        with self.path.open("rb") as file:
            file.readline()
            for line in itertools.islice(file, self.count):
                yield json.loads(line)

    def close(self) -> None:
        """Release the file, which stays."""
        self._stack.close()

    def finish(self) -> None:
        """Delete the file."""
        self.close()
        os.remove(self.path)


def _parse(line):
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


def _pick(values, names):
    return json.dumps({name: values.get(name) for name in names})
