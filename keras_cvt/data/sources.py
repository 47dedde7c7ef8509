"""Labelled images in folders or data sets, found and checked before training."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_cvt._utils import validation
from keras_cvt._utils.optional import require, tf
from keras_cvt.data import datasets, folders
from keras_cvt.data.folders import first_few
from keras_cvt.data.images import find_readable, read_files

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSource:
    """Encoded images and their labels, in an order that never changes.

    Attributes:
        examples: A finite `tf.data.Dataset` of (encoded image, label), scalars of
            string and int64. Images are files of a format that Pillow reads.
        count: Number of images.
        class_names: Name of each label.
        corrupt: Names of the images that were left out because they cannot be
            decoded: paths, or `"train[17]"` for TensorFlow Datasets.
        files: For a folder, (path, label) of the same images in the same order. Paths
            are shuffled as a whole, before the files are read.
        name: Name of the source in messages and cache files.
        folder: The folder of the class folders, as text, or None for a data set.
    """

    examples: "tf.data.Dataset" = field(repr=False)
    count: int
    class_names: tuple[str, ...] = field(repr=False)
    corrupt: tuple[str, ...] = field(default=(), repr=False)
    files: "tf.data.Dataset | None" = field(default=None, repr=False)
    name: str = "images"
    folder: str | None = None

    def fingerprint(self) -> str:
        """Return a hash that tells this source's cache file from others."""
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
    validation_split: float | None = None,
) -> ImageSource:
    """Find the images of a split, and check them.

    The pipelines read an image as `keras_cvt.preprocess_input` does: transparency is
    dropped, 16 bits become 8, an animation is its first frame, and an EXIF orientation
    is not applied. TensorFlow decodes JPEG and PNG, Pillow other formats, more slowly.

    Args:
        source: One of

            - a folder of images, as `<split>/<class>/<image>`: `train/cat/1.jpg`,
              or with `validation_split` also as `<class>/<image>`.
              Images are JPEG, PNG, BMP, GIF, WebP and TIFF files, by their suffix. A
              class folder may have subfolders. Hidden files and folders are ignored.
              Links are followed, but no folder is read twice for a class. Classes are
              sorted by name, as in torchvision's `ImageFolder`. If all names are
              numbers, they are sorted by number (`1`, `2`, `10`): with the folders `0`
              to `999` of ImageNet-V2 sorted as text, nearly every image would get a
              wrong label.
            - the directory of a prepared data set of TensorFlow Datasets, which has a
              file `dataset_info.json`,
            - the name of such a data set: `"cifar10"`,
              `"imagenet_v2/matched-frequency:3.0.0"`.
        split: `"train"`, `"validation"` (which finds `val`, `valid` and `test` too) or
            another split that exists. Data sets may be sliced: `"train[:80%]"`.
        data_dir: The folder in which TensorFlow Datasets keeps its data. Defaults to
            `None`, its own default.
        class_names: The class names in the order of the labels, as in the source that
            a model was trained with. Classes are matched by name; not all need to be
            present. Defaults to `None`, the classes that are found.
        check_images: Whether to decode each image once, and to leave out and report
            those that cannot be decoded or have too many pixels. Otherwise such an
            image stops the training. Defaults to `True`.
        download: Whether TensorFlow Datasets may download and prepare the data.
            Defaults to `True`.
        validation_split: For a source without validation images, the share of the
            training images that is held out, between 0 and 1. `split` is then
            `"train"` or `"validation"`, and both calls need the same number. Of a
            folder, that share of each class is held out: one image at least, and the
            same ones as long as the class's files keep their names and no others come.
            Of a data set, the last images of `train` are, whatever their classes. A
            source with validation images of its own is taken as it is. Photos of the
            same scene should not be on both sides: make folders of your own then.
            Defaults to `None`: such a source is an error.

    Returns:
        The images.

    Raises:
        FileNotFoundError: If there is no such folder and no such data set, or if the
            data set is not prepared and `download` is False.
        ValueError: If the split is missing, if a class has no image that can be
            decoded, if there is only one class, if a class is not in `class_names`,
            if a data set has no images and labels, or a label out of range, or if
            `validation_split` is out of range, or there are too few images to divide.
        ImportError: If TensorFlow or TensorFlow Datasets is missing.

    Example:
        ```python
        training = keras_cvt.data.open_source("photos", "train")
        validation = keras_cvt.data.open_source(
            "photos", "validation", class_names=training.class_names
        )
        ```
    """
    if validation_split is not None:
        validation.check(
            lambda x: validation.is_number(x) and 0 < x < 1,
            "a number between 0 and 1",
            validation_split=validation_split,
        )
        validation.check_choice(("train", "validation"), split=split)
    require("tensorflow", "tensorflow", "`keras_cvt.data`, on every Keras backend,")
    path = Path(source)
    if path.is_dir() and not (path / datasets.INFO).is_file():
        found = _open_folder(path, split, validation_split, class_names)
    elif path.is_file():
        raise ValueError(f"Expected a folder, not a file. Received: source={path}")
    else:
        builder = datasets.find_builder(source, data_dir, download)
        if validation_split is None:
            with _hint(split == "validation"):
                split, count = datasets.find_split(builder, split)
        else:
            split, count = datasets.find_part(builder, split, validation_split)
        found = _open_dataset(builder, split, count, class_names)
    if len(found.class_names) < 2:
        raise ValueError(
            f"{found.name}: a classifier needs at least two classes. "
            f"Received: {first_few(found.class_names)}"
        )
    return _without_corrupt(found, split) if check_images else found


@contextlib.contextmanager
def _hint(wanted):
    """Add to an error that images can be held out."""
    try:
        yield
    except ValueError as error:
        if not wanted:
            raise
        raise ValueError(
            f"{error}. To hold out some of the images, pass `validation_split=0.2`"
        ) from None


def _find_images(root, split, share):
    """Return the folder of the class folders, the source's name, and its images."""
    is_whole = folders.has_split(root, "validation")
    if share is None or is_whole:
        with _hint(not is_whole and split in ("train", "validation")):
            folder = folders.find_split(root, split)
        return folder, folders.printable(folder), folders.find_images(folder)
    folder = root / "train" if folders.has_split(root, "train") else root
    images = folders.find_images(folder)
    if folder == root:
        folders.check_no_splits(images, folder)
    parts = folders.hold_out(images, folder, share)
    images = parts[0 if split == "train" else 1]
    return folder, f"{folders.printable(folder)} ({split})", images


def _open_folder(root, split, share, class_names):
    folder, name, images = _find_images(root, split, share)
    new_labels, names = _match_classes(list(images), class_names, folder)
    labels = np.repeat(new_labels, [len(paths) for paths in images.values()])
    # As bytes: names may be in any encoding.
    paths = [os.fsencode(path) for paths in images.values() for path in paths]
    files = tf.data.Dataset.from_tensor_slices((paths, labels))
    examples = read_files(files)
    return ImageSource(
        *(examples, len(paths), names),
        files=files,
        name=name,
        folder=folders.printable(folder),
    )


def _open_dataset(builder, split, count, class_names):
    name = f"{builder.info.full_name} {split}"
    found = datasets.class_names(builder)
    new_labels, names = _match_classes(found, class_names, name)
    examples = datasets.examples(builder, split)
    if names != tuple(found):
        # A label out of range becomes -1, the value at both ends of the table.
        table = tf.constant([-1, *new_labels, -1], "int64")

        def matched(image, label):
            return image, table[tf.clip_by_value(label, -1, len(found)) + 1]

        examples = examples.map(matched)
    return ImageSource(examples, count, names, name=name)


def _match_classes(found, class_names, where):
    """Return the labels of the classes that were found, and all class names."""
    names = tuple(found if class_names is None else class_names)
    if len(set(names)) < len(names):
        raise ValueError(
            f"Class names must be different. Received: class_names={first_few(names)}"
        )
    label_of = {name: label for label, name in enumerate(names)}
    unknown = [name for name in found if name not in label_of]
    if unknown:
        raise ValueError(
            f"{where} has classes that are not in `class_names`: {first_few(unknown)}. "
            f"Received: class_names={first_few(names)}"
        )
    return np.array([label_of[name] for name in found], "int64"), names


def _without_corrupt(source, split):
    """Return the source without the images that cannot be decoded."""
    good, labels = _decode_all(source)
    classes = len(source.class_names)
    wrong = np.flatnonzero(good & ((labels < 0) | (labels >= classes)))
    if wrong.size:
        raise ValueError(
            f"{source.name}: {wrong.size} labels are not in 0-{classes - 1}. "
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
            f"{source.name}: no image of these classes can be decoded: "
            f"{first_few(names)}. Received: {first_few(corrupt)}"
        )
    logger.warning(
        f"{source.name}: {len(corrupt)} of {source.count} images cannot be decoded and "
        f"are left out: {first_few(corrupt)}"
    )
    kept = select(items, True).map(lambda _, item: item)
    return replace(
        source,
        examples=kept if source.files is None else read_files(kept),
        count=source.count - len(corrupt),
        corrupt=tuple(corrupt),
        files=None if source.files is None else kept,
    )


def _decode_all(source):
    """Return which images can be decoded, and their labels; a bar shows after 5 s."""
    good, labels = np.zeros(source.count, "bool"), np.zeros(source.count, "int64")
    checked = find_readable(source.examples).batch(256).as_numpy_iterator()
    with tqdm(
        total=source.count,
        desc=f"Checking {source.name}",
        unit=" images",
        delay=5,
        leave=False,
        disable=None,
    ) as bar:
        for indices, values, _ in checked:
            good[indices], labels[indices] = True, values
            bar.update(len(indices))
    return good, labels
