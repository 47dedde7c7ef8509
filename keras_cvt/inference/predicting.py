"""Folders of any size to a file of results, in constant memory."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cvt._utils import files, validation
from keras_cvt.data.folders import iterate_images
from keras_cvt.inference.classifier import Classifier
from keras_cvt.inference.journal import Journal
from keras_cvt.inference.outputs import WRITERS, check_output
from keras_cvt.preprocessing.batches import EncodedImage, ImageFile, file_batches
from keras_cvt.preprocessing.images import PathLike


@dataclass(frozen=True)
class Summary:
    """Result of `predict_files`.

    Attributes:
        output: Path of the file of results.
        images: Number of images in it.
        unreadable: Number of those that could not be read.
        resumed: Number of those that an earlier, interrupted run had computed.
    """

    output: Path
    images: int
    unreadable: int
    resumed: int


def image_paths(
    sources: Sequence[PathLike], list_file: PathLike | None = None
) -> Iterator[PathLike]:
    """Yield the paths of image files, one after another.

    Args:
        sources: Image files, and folders that are searched for images.
        list_file: A text file with the path of an image in each line. Defaults to
            `None`.

    Raises:
        ValueError: If a folder or the file names no image.
        OSError: If the file or a folder cannot be read.
    """
    for source in sources:
        if not os.path.isdir(source):
            yield source
            continue
        found = iterate_images(Path(source))
        first = next(found, None)
        if first is None:
            raise ValueError(f"Expected a folder with images. Received: {source}")
        yield first
        yield from found
    if list_file is not None:
        empty = True
        with open(list_file, "rb") as lines:
            for line in lines:
                name = line.strip(b"\r\n")
                if name:
                    empty = False
                    yield os.fsdecode(name)
        if empty:
            raise ValueError(
                "Expected a text file with the path of an image in each line. "
                f"Received: {list_file}, which is empty"
            )


def predict_rows(
    classifier: Classifier,
    paths: Iterable[ImageFile],
    *,
    top: int = 5,
    batch_size: int = 8,
    workers: int | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Classify image files while the next ones are read, in constant memory.

    Args:
        classifier: A classifier.
        paths: Paths or contents of image files.
        top: Number of classes per image. Defaults to `5`.
        batch_size: Images per call. Defaults to `8`.
        workers: Threads that read images. Defaults to `None`: one for each processor.

    Yields:
        For each `batch_size` paths a list with a dict for each path, in order:
        `"image"`, the path or name, and `"predictions"`, see `Classifier.best`. If the
        file cannot be read, it has `"error"` instead of `"predictions"`.

    Raises:
        ValueError: If `top` or `batch_size` is out of range.
    """
    validation.check_int(1, top=top, batch_size=batch_size)
    for batch in file_batches(paths, classifier.eval_transform, batch_size, workers):
        answers: Iterator = iter(())
        if len(batch.images):
            scores = classifier.scores(batch.images, batch_size)
            answers = iter(classifier.best(scores, top))
        rows: list[dict[str, Any]] = []
        for path, error in zip(batch.paths, batch.errors, strict=True):
            row: dict[str, Any] = {"image": _name(path)}
            if error is None:
                rows.append(row | {"predictions": next(answers)})
            else:
                rows.append(row | {"error": str(error)})
        yield rows


def predict_files(
    classifier: Classifier,
    sources: Sequence[PathLike],
    output: PathLike,
    *,
    list_file: PathLike | None = None,
    top: int = 5,
    batch_size: int = 8,
    workers: int | None = None,
    resume: bool = False,
    progress: Callable[[int, int, list[dict[str, Any]]], None] | None = None,
) -> Summary:
    r"""Classify images of any number and write a file of results.

    The rows are written as they come to a file beside the output, `<output>.partial`.
    When all are there, the output is written from it, completely or not at all, and it
    is deleted. If the process is killed, call again with `resume=True`: the result is
    that of a run that was not interrupted.

    Args:
        classifier: A classifier.
        sources: Image files, and folders that are searched for images.
        output: Path of the file. `.jsonl` holds the rows of `predict_rows`; `.csv`
            the columns `image`, `label_1`, `score_1`, ... and `error`; `.parquet` the
            columns `image`, `labels`, `scores` (lists) and `error`. Bytes of a path
            that are not UTF-8 are written as `\xff` in the last two.
        list_file: A text file with the path of another image in each line. Defaults
            to `None`.
        top: Number of classes per image. Defaults to `5`.
        batch_size: Images per call. Defaults to `8`.
        workers: Threads that read images. Defaults to `None`: one for each processor.
        resume: Whether to continue a run that was interrupted. It must have had the
            same classifier, images, `top` and `batch_size`. Defaults to `False`.
        progress: Function of the number of images that are done, the number of all,
            and the new rows. It is called once before the first image and after each
            batch. Defaults to `None`.

    Returns:
        What was written.

    Raises:
        ValueError: If an argument is out of range, there is no image, or an
            interrupted run had other images or settings.
        FileExistsError: If there is an interrupted run and `resume` is False, or the
            output and no interrupted run and `resume` is True, or another process is
            writing the same file.
        OSError: If the output cannot be written.
        ImportError: If Parquet needs a package that is missing.
    """
    validation.check_int(1, top=top, batch_size=batch_size)
    output = Path(output)
    check_output(output)
    if resume and is_finished(output):
        raise FileExistsError(f"{output} is finished. Delete it to compute it again.")
    total = sum(1 for _ in image_paths(sources, list_file))
    if not total:
        raise ValueError(f"Expected at least one image. Received: sources={sources}")
    header = {
        "classifier": classifier.origin,
        "transform": classifier.eval_transform.to_dict(),
        "classes_sha256": hashlib.sha256(
            json.dumps(classifier.classes).encode()
        ).hexdigest(),
        "top": top,
        "batch_size": batch_size,
    }
    partial = _partial(output)
    journal = Journal(partial, header, batch_size, resume)
    with contextlib.closing(journal):
        resumed, unreadable = journal.count, 0
        paths = image_paths(sources, list_file)
        for row in journal.rows():
            unreadable += "error" in row
            _check_same(row["image"], next(paths, None), partial)
        if progress:
            progress(resumed, total, [])
        for rows in predict_rows(
            classifier, paths, top=top, batch_size=batch_size, workers=workers
        ):
            journal.append(rows)
            unreadable += sum("error" in row for row in rows)
            if progress:
                progress(journal.count, total, rows)
        write = WRITERS[output.suffix]
        shown = min(top, len(classifier.classes))
        files.write_whole(output, lambda path: write(journal.rows(), path, shown))
        journal.finish()
    return Summary(output, journal.count, unreadable, resumed)


def _name(file):
    return file.name if isinstance(file, EncodedImage) else os.fspath(file)


def is_finished(output: Path) -> bool:
    """Return whether an output is there, and no run that could be resumed."""
    return output.is_file() and not _partial(output).is_file()


def _partial(output):
    return output.with_name(output.name + ".partial")


def _check_same(before, now, partial):
    if now is None or os.fspath(now) != before:
        raise ValueError(
            f"{partial} was begun with other images. Name the same files and folders, "
            f"or delete that file. Expected: {before}. Received: {now}"
        )
