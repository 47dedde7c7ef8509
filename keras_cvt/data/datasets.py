"""TensorFlow Datasets: data sets by name, and prepared ones by directory."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cvt.data.folders import SPLITS, some
from keras_cvt.data.imports import tensorflow_datasets

if TYPE_CHECKING:
    import tensorflow as tf

INFO = "dataset_info.json"


def from_directory(directory: Path) -> Any:
    """Return the builder of a prepared data set."""
    return tensorflow_datasets().builder_from_directory(directory)


def from_name(name: str, data_dir: str | os.PathLike | None, download: bool) -> Any:
    """Return the builder of a data set, prepared.

    Raises:
        FileNotFoundError: If there is none of that name, or it is not prepared and
            may not be downloaded.
    """
    tfds = tensorflow_datasets()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    # What TensorFlow Datasets raises for a name, a config and a version it lacks.
    except (ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(
            f"{name!r} is neither a folder nor a data set of TensorFlow Datasets: "
            f"{reason}"
        ) from error
    if builder.is_prepared():
        return builder
    if not download:
        raise FileNotFoundError(
            f"{builder.info.full_name} is not prepared in {builder.data_dir}; "
            "`download=True` downloads and prepares it."
        )
    builder.download_and_prepare()
    return builder


def find_split(builder: Any, split: str) -> tuple[str, int]:
    """Return the name of a split, which may be a slice, and its number of images.

    Raises:
        ValueError: If there is none.
    """
    names = SPLITS.get(split, (split,))
    for name in names:
        try:
            return name, builder.info.splits[name].num_examples
        except (KeyError, ValueError):
            continue
    raise ValueError(
        f"Expected a split {' or '.join(map(repr, names))} in "
        f"{builder.info.full_name}. Received: {some(sorted(builder.info.splits))}"
    )


def class_names(builder: Any) -> list[str]:
    """Return the names of the classes.

    Raises:
        ValueError: If this is no data set of labelled images.
    """
    tfds = tensorflow_datasets()
    features = builder.info.features
    for name, kind in (("image", "Image"), ("label", "ClassLabel")):
        if name not in features or not isinstance(
            features[name], getattr(tfds.features, kind)
        ):
            raise ValueError(
                f"Expected a feature {name!r} of type {kind} in "
                f"{builder.info.full_name}. Received: {features}"
            )
    return list(features["label"].names)


def examples(builder: Any, split: str) -> "tf.data.Dataset":
    """Return (encoded image, label) of a split, always in the same order."""
    tfds = tensorflow_datasets()
    # `keras_cvt.data` caches where it is told to.
    config = tfds.ReadConfig(try_autocache=False)
    config.options.deterministic = True
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        read_config=config,
        decoders=tfds.decode.PartialDecoding(
            {"image": True, "label": True},
            decoders={"image": tfds.decode.SkipDecoding()},
        ),
    )
    return dataset.map(lambda example: (example["image"], example["label"]))
