"""Labelled images wherever people keep them: folders and TensorFlow Datasets."""

import dataclasses
import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

logger = logging.getLogger(__name__)

# What `tf.io.decode_image` reads.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_SYNONYMS = {"validation": ("validation", "val", "test")}
_INSTALL = "pip install keras_cvt[tensorflow]"
_SHOWN = 5


@dataclass(frozen=True)
class ImageSource:
    """Encoded images and their labels, in an order that never changes.

    Attributes:
        items: What identifies an image: a `tf.data.Dataset` of (path, label) for a
            folder, of (encoded image, label) for TensorFlow Datasets.
        count: Number of images.
        class_names: Name of each label.
        corrupt: Names of the images that cannot be decoded and were left out.
        paths: Whether `items` are paths, which are read after shuffling.
    """

    items: "tf.data.Dataset" = field(repr=False)
    count: int
    class_names: tuple[str, ...] = field(repr=False)
    corrupt: tuple[str, ...] = ()
    paths: bool = False

    @property
    def examples(self) -> "tf.data.Dataset":
        """(encoded image, label): scalars of string and int64."""
        return read(self.items) if self.paths else self.items


def read(items: "tf.data.Dataset") -> "tf.data.Dataset":
    """Replace the paths of (path, ...) by the files' bytes."""
    tf = import_tensorflow()
    return items.map(
        lambda path, *rest: (tf.io.read_file(path), *rest),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def open_source(
    source: str | os.PathLike,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    class_names: Sequence[str] | None = None,
    check_images: bool = True,
) -> ImageSource:
    """Find the images of a split.

    Args:
        source: A folder of split folders (`train`, and `validation`, `val` or
            `test`) of class folders of images; the directory of a prepared
            TensorFlow Datasets data set; or such a data set's name, such as
            `"cifar10"` or `"imagenet_v2/matched-frequency"`, which is downloaded and
            prepared if need be. Class folders are sorted by name, as torchvision's
            `ImageFolder` sorts them; if all names are numbers, by number, because
            ImageNet-V2's folders `0` to `999` are out of order otherwise.
        split: `"train"`, `"validation"` (which `val` or `test` may stand for), or any
            split that is there.
        data_dir: Where TensorFlow Datasets keeps its data.
        class_names: The classes and their order, those of the training images:
            folders are matched by name.
        check_images: Whether to decode each image once, and to leave out and report
            those that cannot be: about 0.5 ms an image and core for photos.

    Returns:
        The images.

    Raises:
        FileNotFoundError: If there is no such folder and no data set of that name.
        ValueError: If there is no such split, a class has no (readable) image, there
            are fewer than two classes, or a folder is not in `class_names`.
        ImportError: If TensorFlow or TensorFlow Datasets is missing.
    """
    import_tensorflow()
    path = Path(source)
    if (path / "dataset_info.json").is_file():
        found = _open_tfds(_tfds().builder_from_directory(path), split)
    elif path.is_dir():
        found = _open_folder(path, split, class_names)
    else:
        found = _open_tfds(_named(source, data_dir), split)
    if class_names is not None and found.class_names != tuple(class_names):
        raise ValueError(
            f"The classes of {source} are not those expected: "
            f"{_some(found.class_names)} instead of {_some(class_names)}"
        )
    if len(found.class_names) < 2:
        raise ValueError(
            f"A classifier needs at least two classes. Received: {found.class_names} "
            f"in {source}"
        )
    return _without_corrupt(found, f"{source}, {split}") if check_images else found


# Folders


def _open_folder(root, split, class_names):
    folder = _split_folder(root, split)
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if names and all(name.isdecimal() for name in names):
        names.sort(key=int)
    expected = names if class_names is None else list(class_names)
    unknown = [name for name in names if name not in set(expected)]
    if unknown:
        raise ValueError(
            f"{folder} has class folders that the training images do not have: "
            f"{_some(unknown)}"
        )
    label_of = {name: label for label, name in enumerate(expected)}
    paths, labels = [], []
    for name in names:
        files = _image_files(folder / name)
        paths += files
        labels += [label_of[name]] * len(files)
    if not paths:
        raise ValueError(f"Expected class folders of images in {folder}; none is there")
    tf = import_tensorflow()
    items = tf.data.Dataset.from_tensor_slices((paths, np.array(labels, "int64")))
    return ImageSource(items, len(paths), tuple(expected), paths=True)


def _split_folder(root, split):
    names = _SYNONYMS.get(split, (split,))
    for name in names:
        if (root / name).is_dir():
            return root / name
    there = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    raise ValueError(
        f"Expected a folder {' or '.join(names)} in {root}. "
        f"Received: {_some(there) if there else 'no folder'}"
    )


def _image_files(folder):
    others = set()
    files = []
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                files.append(os.path.join(directory, name))
            else:
                others.add(suffix or name)
    if not files:
        raise ValueError(
            f"The class folder {folder} holds no image ({', '.join(SUFFIXES)}). "
            f"Received: {_some(sorted(others)) if others else 'nothing'}"
        )
    return files


# TensorFlow Datasets


def _named(name, data_dir):
    tfds = _tfds()
    try:
        builder = tfds.builder(os.fspath(name), data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is neither a folder nor a data set of TensorFlow Datasets"
        ) from error
    builder.download_and_prepare()
    return builder


def _open_tfds(builder, split):
    tfds = _tfds()
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise ValueError(
            "Expected a data set with `image` and `label`. "
            f"Received: {builder.info.full_name} with {sorted(features)}"
        )
    names = _SYNONYMS.get(split, (split,))
    for name in names:
        if name in builder.info.splits:
            break
    else:
        raise ValueError(
            f"Expected a split {' or '.join(names)} in {builder.info.full_name}. "
            f"Received: {sorted(builder.info.splits)}"
        )
    items = builder.as_dataset(
        split=name,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(
            {"image": True, "label": True},
            decoders={"image": tfds.decode.SkipDecoding()},
        ),
    ).map(lambda example: (example["image"], example["label"]))
    return ImageSource(
        items, builder.info.splits[name].num_examples, tuple(features["label"].names)
    )


# Checking


def _without_corrupt(source, name):
    """Return the source without the images that cannot be decoded."""
    labels, corrupt = [], {}
    for index, (item, label, error) in enumerate(_checked(source.items, source.paths)):
        if not 0 <= label < len(source.class_names):
            raise ValueError(
                f"{name}: expected labels of 0-{len(source.class_names) - 1}. "
                f"Received: {label} for image {index}"
            )
        if error:
            corrupt[index] = item if source.paths else f"image {index} of {name}"
        else:
            labels.append(label)
    lost = sorted({*range(len(source.class_names))} - {*labels})
    if source.paths and lost and corrupt:
        names = [source.class_names[label] for label in lost]
        raise ValueError(f"{name}: no readable image of {_some(names)}")
    if not corrupt:
        return source
    logger.warning(
        "%s: %d of %d images cannot be decoded and are left out: %s",
        name,
        len(corrupt),
        source.count,
        _some(list(corrupt.values())),
    )
    tf = import_tensorflow()
    bad = tf.constant(sorted(corrupt), "int64")
    items = (
        source.items.enumerate()
        .filter(lambda index, _: tf.reduce_all(bad != index))
        .map(lambda _, item: item)
    )
    return dataclasses.replace(
        source,
        items=items,
        count=source.count - len(corrupt),
        corrupt=tuple(corrupt.values()),
    )


def _checked(items, paths) -> Iterator[tuple[str | bytes, int, bool]]:
    """Yield item, label and whether it is corrupt, in order, decoding in threads."""
    with ThreadPoolExecutor() as pool:
        for batch in _batches(items.as_numpy_iterator(), 1024):
            encoded = [item.decode() if paths else item for item, _ in batch]
            errors = pool.map(is_corrupt, encoded)
            for item, (_, label), error in zip(encoded, batch, errors, strict=True):
                yield item, int(label), error


def _batches(iterator: Iterable, size: int) -> Iterator[list]:
    batch = []
    for element in iterator:
        batch.append(element)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def is_corrupt(image: str | bytes) -> bool:
    """Tell whether a file, or its bytes, cannot be decoded as an image."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as i:
            if i.format not in ("JPEG", "PNG", "BMP", "GIF"):
                return True
            # Smaller is faster, and truncated data is found all the same.
            i.draft("RGB", (1, 1))
            i.load()
    except Exception:  # noqa: BLE001 PIL raises whatever its decoders raise.
        return True
    return False


def import_tensorflow():
    """Return TensorFlow, or say how to install it."""
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(f"`keras_cvt.data` needs TensorFlow: {_INSTALL}") from error
    return tensorflow


def _tfds():
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(f"This needs TensorFlow Datasets: {_INSTALL}") from error
    return tensorflow_datasets


def _some(names):
    shown = ", ".join(map(str, names[:_SHOWN]))
    rest = len(names) - _SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
