"""Labelled images of an evaluation, read one after another."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cvt._utils.optional import require
from keras_cvt.data import datasets, folders
from keras_cvt.evaluation.benchmarks import find_benchmark
from keras_cvt.preprocessing.batches import EncodedImage, ImageFile
from keras_cvt.preprocessing.images import PathLike

# What `find_split` takes for "validation"; beside it, a folder of splits has "train".
_SPLITS = ("train", *folders.SPLITS["validation"])
_REAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG$")


@dataclass(frozen=True)
class LabelledImages:
    """Images of known classes.

    Attributes:
        dataset: Name of the data set or folder.
        split: Name of the split, or `""` for a folder without any.
        benchmark: Key in `BENCHMARKS` of a data set of TensorFlow Datasets, or None.
        class_names: Names of the classes.
        count: Number of images.
        read: Yields each image with the index of its class name and its file name.
    """

    dataset: str
    split: str
    benchmark: str | None
    class_names: tuple[str, ...]
    count: int
    read: Callable[[], Iterator[tuple[ImageFile, int, str]]]


def open_images(
    source: PathLike, split: str | None, data_dir: PathLike | None, named: bool
) -> LabelledImages:
    """Find labelled images.

    Args:
        source: See `evaluate`, also for the other arguments.
        split: See `evaluate`.
        data_dir: See `evaluate`.
        named: Whether the images need their file names.

    Raises:
        FileNotFoundError: If there is no such folder and no such data set.
        ValueError: If there is no such split, or it has no images, labels or file
            names.
        ImportError: If TensorFlow Datasets is needed and missing.
    """
    path = Path(source)
    if path.is_dir() and not (path / datasets.INFO).is_file():
        return _open_folder(path, split)
    if path.is_file():
        raise ValueError(f"Expected a folder, not a file. Received: {path}")
    require("tensorflow", "tensorflow", "A source that is not a folder of images")
    builder = datasets.find_builder(source, data_dir, download=True)
    return _open_dataset(builder, split or "validation", named)


def _open_folder(root, split):
    folder = _find_folder(root, split)
    # These paths are all that is in memory of every image.
    found = folders.find_images(folder)
    files = list(found.values())

    def read():
        for label, paths in enumerate(files):
            for path in paths:
                yield path, label, path

    real = Path(os.path.realpath(folder))
    above = Path(os.path.realpath(root)) if folder != root else real.parent
    if folder == root and real.name not in _SPLITS:
        above, split = real, ""
    else:
        split = real.name if folder == root else folder.name
    return LabelledImages(
        folders.printable(above.name) or "images",
        folders.printable(split),
        None,
        tuple(found),
        sum(map(len, files)),
        read,
    )


def _find_folder(root, split):
    """Return the folder of the class folders: that of a split, or the root itself."""
    if split is not None:
        return folders.find_split(root, split)
    try:
        return folders.find_split(root, "validation")
    except ValueError:
        if any((root / name).is_dir() for name in _SPLITS):
            raise
        return root


def _open_dataset(builder, split, named):
    split, count = datasets.find_split(builder, split)
    names = tuple(datasets.class_names(builder))
    full_name = builder.info.full_name

    def read():
        examples = _examples_with_names if named else _examples
        for index, (image, label, name) in enumerate(examples(builder, split)):
            where = f"{split}[{index}]"
            if not 0 <= label < len(names):
                raise ValueError(
                    f"{full_name}: expected labels of 0-{len(names) - 1}. "
                    f"Received: label {label} of {where}"
                )
            yield EncodedImage(where, image), int(label), name

    return LabelledImages(
        full_name.rpartition("/")[0],
        split,
        find_benchmark(full_name, split),
        names,
        count,
        read,
    )


def _examples(builder, split):
    for image, label in datasets.examples(builder, split).as_numpy_iterator():
        yield image, label, ""


def _examples_with_names(builder, split):
    if "file_name" not in builder.info.features:
        raise ValueError(
            "Expected a data set with file names, such as imagenet2012. "
            f"Received: {builder.info.full_name}"
        )
    tfds = datasets.tfds
    config = tfds.ReadConfig(try_autocache=False)
    config.options.deterministic = True
    fields = {"image": True, "label": True, "file_name": True}
    decoders = tfds.decode.PartialDecoding(
        fields, {"image": tfds.decode.SkipDecoding()}
    )
    examples = builder.as_dataset(
        split=split, shuffle_files=False, read_config=config, decoders=decoders
    )
    for example in examples.as_numpy_iterator():
        yield example["image"], example["label"], os.fsdecode(example["file_name"])


def name_of(file: ImageFile) -> str:
    """Return the name of an image for people."""
    return file.name if isinstance(file, EncodedImage) else folders.printable(file)


def read_real_labels(path: PathLike, classes: int) -> list[frozenset[int]]:
    """Return the reassessed labels (ReaL) of ImageNet's validation images.

    Args:
        path: `real.json`, a list with a list of labels for each image, in the order of
            their names. Some lists are empty.
        classes: Number of classes.

    Raises:
        ValueError: If it is another file.
        OSError: If it cannot be read.
    """
    try:
        values: Any = json.loads(Path(path).read_bytes())
        labels = [frozenset(map(int, each)) for each in values]
    except (ValueError, TypeError) as error:
        raise ValueError(
            "Expected real.json, a list of lists of labels. "
            f"Received: {os.fspath(path)} ({type(error).__name__}: {error})"
        ) from error
    out_of_range = [i for each in labels for i in each if not 0 <= i < classes]
    if out_of_range:
        raise ValueError(
            f"Expected labels of the model's {classes} classes in {os.fspath(path)}. "
            f"Received: {out_of_range[0]}"
        )
    return labels


def real_labels_of(name: str, labels: Sequence[frozenset[int]]) -> frozenset[int]:
    """Return the reassessed labels of an image by its file name.

    Raises:
        ValueError: If the name is not that of one of these images.
    """
    match = _REAL_NAME.search(name)
    if not match or not 1 <= int(match[1]) <= len(labels):
        raise ValueError(
            "Expected images with reassessed labels, ILSVRC2012_val_00000001.JPEG to "
            f"{len(labels):08d}. Received: {name}"
        )
    return labels[int(match[1]) - 1]
