"""Labelled images wherever people keep them, found and checked before training."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_cvt.data import datasets, folders
from keras_cvt.data.folders import some
from keras_cvt.data.images import read, readable
from keras_cvt.data.imports import tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSource:
    """Encoded images and their labels, in an order that never changes.

    Attributes:
        examples: A finite `tf.data.Dataset` of (encoded image, label), scalars of
            string and int64. Images are JPEG, PNG, BMP or GIF.
        count: Number of images.
        class_names: Name of each label.
        corrupt: Names of the images that were left out because they cannot be
            decoded: paths, or `"train[17]"` for TensorFlow Datasets.
        files: For a folder, (path, label) of the same images in the same order: paths
            are shuffled all at once, before they are read.
        name: What messages and cache files call it.
    """

    examples: "tf.data.Dataset" = field(repr=False)
    count: int
    class_names: tuple[str, ...] = field(repr=False)
    corrupt: tuple[str, ...] = field(default=(), repr=False)
    files: "tf.data.Dataset | None" = field(default=None, repr=False)
    name: str = "images"

    def fingerprint(self) -> str:
        """Return some letters that tell this source's cache file from others'."""
        content = repr((self.name, self.count, self.class_names, self.corrupt))
        return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def open_source(
    source: str | os.PathLike,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    check_images: bool = True,
    download: bool = True,
) -> ImageSource:
    """Find the images of a split, and check them.

    Args:
        source: One of

            - a folder of split folders of class folders, which hold the images at any
              depth: `train/cat/1.jpg`. Hidden files are ignored, links are followed.
              Classes are sorted by name, as torchvision's `ImageFolder` sorts them;
              but if all are numbers, by number: ImageNet-V2's folders `0` to `999`
              sorted as text would give nearly every image a wrong label.
            - the directory of a prepared TensorFlow Datasets data set, which holds a
              `dataset_info.json`,
            - the name of such a data set: `"cifar10"`,
              `"imagenet_v2/matched-frequency:3.0.0"`.
        split: `"train"`; `"validation"`, which may be called `val` or `test` there; or
            any other that is there. Data sets may be sliced: `"train[:80%]"`.
        data_dir: Where TensorFlow Datasets keeps its data.
        class_names: The classes and their order, those of the images that a model was
            trained with. Classes are then matched by name, and some may be missing.
        check_images: Whether to decode each image once, and to leave out and report
            those that cannot be. Otherwise such an image ends the training.
        download: Whether TensorFlow Datasets may download and prepare the data.

    Returns:
        The images.

    Raises:
        FileNotFoundError: If there is no such folder and no data set of that name, or
            the data set is not prepared and `download` is False.
        ValueError: If the split is missing, a class has no image, or none that can be
            decoded, there is one class only, `class_names` lacks a class, or a data
            set has no images and labels or a label that is no class.
        ImportError: If TensorFlow or TensorFlow Datasets is missing.

    Example:
        ```python
        training = keras_cvt.data.open_source("photos", "train")
        validation = keras_cvt.data.open_source(
            "photos", "validation", class_names=training.class_names
        )
        ```
    """
    tensorflow()
    path = Path(source)
    if path.is_dir() and not (path / datasets.INFO).is_file():
        found = _open_folder(folders.find_split(path, split), class_names)
    elif path.is_file():
        raise ValueError(f"Expected a folder of images, not a file. Received: {path}")
    else:
        if path.is_dir():
            builder = datasets.from_directory(path)
        else:
            builder = datasets.from_name(os.fspath(source), data_dir, download)
        split, count = datasets.find_split(builder, split)
        found = _open_dataset(builder, split, count, class_names)
    if len(found.class_names) < 2:
        raise ValueError(
            f"{found.name}: a classifier needs at least two classes. "
            f"Received: {some(found.class_names)}"
        )
    return _without_corrupt(found, split) if check_images else found


def _open_folder(folder, class_names):
    tf = tensorflow()
    images = folders.find_images(folder)
    new_labels, names = _match(list(images), class_names, folder)
    labels = np.repeat(new_labels, [len(paths) for paths in images.values()])
    paths = [path for paths in images.values() for path in paths]
    files = tf.data.Dataset.from_tensor_slices((paths, labels))
    return ImageSource(read(files), len(paths), names, files=files, name=str(folder))


def _open_dataset(builder, split, count, class_names):
    tf = tensorflow()
    name = f"{builder.info.full_name} {split}"
    found = datasets.class_names(builder)
    new_labels, names = _match(found, class_names, name)
    examples = datasets.examples(builder, split)
    if names != tuple(found):
        # -1 for a label that is no class, at either end of the table.
        table = tf.constant([-1, *new_labels, -1], "int64")
        examples = examples.map(
            lambda image, label: (
                image,
                table[tf.clip_by_value(label, -1, len(found)) + 1],
            )
        )
    return ImageSource(examples, count, names, name=name)


def _match(found, class_names, where):
    """Return the labels of the classes found, and the names of all classes."""
    names = tuple(found if class_names is None else class_names)
    if len(set(names)) < len(names):
        raise ValueError(f"Classes must have different names. Received: {some(names)}")
    label_of = {name: label for label, name in enumerate(names)}
    unknown = [name for name in found if name not in label_of]
    if unknown:
        raise ValueError(
            f"{where} has classes that `class_names` lacks: {some(unknown)}. "
            f"Received: class_names={some(names)}"
        )
    return np.array([label_of[name] for name in found], "int64"), names


def _without_corrupt(source, split):
    """Return the source without the images that cannot be decoded."""
    tf = tensorflow()
    good = np.zeros(source.count, "bool")
    labels = np.zeros(source.count, "int64")
    for indices, values in _progress(readable(source.examples), source):
        good[indices], labels[indices] = True, values
    classes = len(source.class_names)
    wrong = np.flatnonzero(good & ((labels < 0) | (labels >= classes)))
    if wrong.size:
        raise ValueError(
            f"{source.name}: {wrong.size} labels are no class of 0-{classes - 1}. "
            f"Received: label {labels[wrong[0]]} of image {wrong[0]}"
        )
    if good.all():
        return source

    def select(dataset, keep):
        chosen = tf.constant(good if keep else ~good)
        return dataset.enumerate().filter(lambda index, _: chosen[index])

    items = source.examples if source.files is None else source.files
    corrupt, lost = [], set()
    for index, (item, label) in select(items, False).as_numpy_iterator():
        name = f"{split}[{index}]" if source.files is None else os.fsdecode(item)
        corrupt.append(name)
        lost.add(int(label))
    lost -= set(labels[good].tolist())
    if lost:
        names = [source.class_names[label] for label in sorted(lost)]
        raise ValueError(
            f"{source.name}: no image of these classes can be decoded: {some(names)}. "
            f"Received: {some(corrupt)}"
        )
    logger.warning(
        "%s: %d of %d images cannot be decoded and are left out: %s",
        source.name,
        len(corrupt),
        source.count,
        some(corrupt),
    )
    kept = select(items, True).map(lambda _, item: item)
    return replace(
        source,
        examples=kept if source.files is None else read(kept),
        count=source.count - len(corrupt),
        corrupt=tuple(corrupt),
        files=None if source.files is None else kept,
    )


def _progress(checked, source):
    """Yield batches of what was checked; a bar shows if it takes a while."""
    from tqdm import tqdm

    bar = tqdm(
        total=source.count,
        desc=f"Checking {source.name}",
        unit=" images",
        delay=5,
        leave=False,
        disable=None,
    )
    with bar:
        for indices, labels, _ in checked.batch(256).as_numpy_iterator():
            yield indices, labels
            bar.update(len(indices))
