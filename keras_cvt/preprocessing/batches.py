"""Image files as batches that are read while the caller computes."""

import collections
import io
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from keras_cvt._utils import validation
from keras_cvt.preprocessing import pil
from keras_cvt.preprocessing.images import (
    PathLike,
    find_expected,
    preprocess_for,
)

# Batches that are read while one is computed.
_AHEAD = 2
# Paths per batch, if all are read anyway.
_WHOLE = 16


@dataclass(frozen=True)
class EncodedImage:
    """The content of an image file that was read elsewhere.

    Attributes:
        name: Its name for people.
        content: The file's bytes.
    """

    name: str
    content: bytes


ImageFile = PathLike | EncodedImage
File = TypeVar("File", bound=ImageFile)


@dataclass(frozen=True, eq=False)
class FileBatch(Generic[File]):
    """Consecutive image files, read and preprocessed.

    Attributes:
        paths: All files of the batch.
        images: float32 (N, height, width, 3), those that could be read, in order.
        errors: For each path why it could not be read, or None.
    """

    paths: list[File]
    images: np.ndarray
    errors: list[Exception | None]

    @property
    def readable(self) -> list[File]:
        """The path of each image."""
        pairs = zip(self.paths, self.errors, strict=True)
        return [path for path, error in pairs if error is None]

    @property
    def unreadable(self) -> list[tuple[File, Exception]]:
        """The other paths, each with its error."""
        pairs = zip(self.paths, self.errors, strict=True)
        return [(path, error) for path, error in pairs if error is not None]


def file_batches(
    paths: Iterable[File],
    model_or_weights: Any,
    batch_size: int,
    workers: int | None = None,
) -> Iterator[FileBatch[File]]:
    """Read image files in threads, two batches ahead of the caller.

    The result is that of `preprocess_input`, in the order of the paths. At most three
    batches are in memory, however many paths there are.

    Args:
        paths: Paths or contents of image files, taken when they are needed.
        model_or_weights: As in `preprocess_input`.
        batch_size: Number of paths per batch. The last batch may have fewer.
        workers: Number of threads. Defaults to `None`: one for each processor.

    Yields:
        A `FileBatch` for each `batch_size` paths.
    """
    validation.check_int(1, batch_size=batch_size)
    expected = find_expected(model_or_weights)
    waiting: collections.deque[list[tuple[File, Future]]] = collections.deque()
    paths = iter(paths)
    executor = ThreadPoolExecutor(workers or os.cpu_count(), "keras_cvt_read")
    try:
        while True:
            while len(waiting) <= _AHEAD:
                batch = list(itertools.islice(paths, batch_size))
                if not batch:
                    break
                waiting.append(
                    [(p, executor.submit(_read, p, *expected)) for p in batch]
                )
            if not waiting:
                return
            yield _collect(waiting.popleft())
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def preprocess_files(
    paths: Iterable[File], model_or_weights: Any
) -> tuple[list[np.ndarray], list[File], list[tuple[File, Exception]]]:
    """Read all image files, in threads, and leave out those that cannot be read.

    Args:
        paths: Paths or contents of image files.
        model_or_weights: As in `preprocess_input`.

    Returns:
        The images, each float32 (height, width, 3); their paths; and the paths of the
        other files, each with the error.
    """
    batches = list(file_batches(paths, model_or_weights, _WHOLE))
    return (
        [image for batch in batches for image in batch.images],
        [path for batch in batches for path in batch.readable],
        [failed for batch in batches for failed in batch.unreadable],
    )


def _read(path, transform, channels):
    try:
        if isinstance(path, EncodedImage):
            path = pil.read_rgb(io.BytesIO(path.content))
        return preprocess_for(path, transform, channels)[0]
    except (ValueError, OSError) as error:
        return error


def _collect(reads):
    results = [read.result() for _, read in reads]
    images = [r for r in results if not isinstance(r, Exception)]
    return FileBatch(
        [path for path, _ in reads],
        np.stack(images) if images else np.zeros((0, 0, 0, 3), "float32"),
        [r if isinstance(r, Exception) else None for r in results],
    )
