"""Data sets of TensorFlow Datasets, by name or by directory."""

import os
from pathlib import Path
from typing import Any

from keras_cvt._utils.optional import LazyModule, require, tf
from keras_cvt.data.folders import SPLITS, first_few, held_out_count

tfds = LazyModule("tensorflow_datasets")

# The file that tells a prepared data set from a folder of images.
INFO = "dataset_info.json"


def find_builder(
    source: str | os.PathLike, data_dir: str | os.PathLike | None, download: bool
) -> Any:
    """Return the builder of a data set, and prepare it if necessary.

    Args:
        source: The directory of a prepared data set, or a name.
        data_dir: The folder in which TensorFlow Datasets keeps its data, or None.
        download: Whether it may download and prepare the data.

    Raises:
        FileNotFoundError: If there is no such data set, or if it is not prepared and
            `download` is False.
        ImportError: If TensorFlow Datasets is missing.
    """
    purpose = "A source that is not a folder of images"
    require("tensorflow_datasets", "tensorflow", purpose)
    if Path(source).is_dir():
        return tfds.builder_from_directory(source)
    name = os.fspath(source)
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    # Raised for an unknown name, configuration or version.
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
            f"{builder.info.full_name} is not prepared in {builder.data_dir}. Pass "
            "`download=True` to download and prepare it. Received: download=False"
        )
    builder.download_and_prepare()
    return builder


def find_split(builder: Any, split: str) -> tuple[str, int]:
    """Return the name of a split or slice, and its number of images.

    Raises:
        ValueError: If there is no such split.
    """
    names = SPLITS.get(split, (split,))
    for name in names:
        try:
            return name, builder.info.splits[name].num_examples
        except (KeyError, ValueError):
            continue
    raise ValueError(
        f"Expected a split {' or '.join(map(repr, names))} in "
        f"{builder.info.full_name}. Received: {first_few(sorted(builder.info.splits))}"
    )


def find_part(builder: Any, split: str, share: float) -> tuple[str, int]:
    """Return the name of a split or, without validation images, a slice of `train`.

    Args:
        builder: The data set.
        split: `"train"` or `"validation"`.
        share: The share of `train`, its last images, that is held out if there is no
            split for validation.

    Returns:
        The name of the split or slice, and its number of images.

    Raises:
        ValueError: If there is no split to divide, if it has one image only, or if its
            images are in a given order, in which the last may be those of one class.
    """
    if any(name in builder.info.splits for name in SPLITS["validation"]):
        return find_split(builder, split)
    whole, count = find_split(builder, "train")
    if count < 2 or builder.info.disable_shuffling:
        found = "images in a given order" if count > 1 else f"{count} image"
        raise ValueError(
            f"Expected at least two images in random order in {whole!r} of "
            f"{builder.info.full_name}, to hold out some. Received: {found}"
        )
    kept = count - held_out_count(count, share)
    part = f"{whole}[:{kept}]" if split == "train" else f"{whole}[{kept}:]"
    return find_split(builder, part)


def class_names(builder: Any) -> list[str]:
    """Return the names of the classes.

    Raises:
        ValueError: If the data set does not have images and labels.
    """
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
    # The pipelines of `keras_cvt.data` have a cache of their own.
    config = tfds.ReadConfig(try_autocache=False)
    config.options.deterministic = True
    decoders = tfds.decode.PartialDecoding(
        {"image": True, "label": True}, {"image": tfds.decode.SkipDecoding()}
    )
    dataset = builder.as_dataset(
        split=split, shuffle_files=False, read_config=config, decoders=decoders
    )
    return dataset.map(lambda example: (example["image"], example["label"]))
