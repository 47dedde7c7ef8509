"""What an exported file says about itself."""

import importlib.metadata
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_cvt._utils import validation
from keras_cvt._utils.optional import tf
from keras_cvt.deploy import formats
from keras_cvt.deploy.file_format import Variant
from keras_cvt.description import ModelDescription
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.predictions import imagenet_class_names


def describe(
    model: CvTModel,
    class_names: Sequence[str] | None = None,
    source_weights: str | None = None,
) -> ModelDescription:
    """Return a model's description with what the caller knows better.

    Args:
        model: The model.
        class_names: A name for each class. Defaults to `None`, which means
            `model.class_names`, or ImageNet's names for 1000 classes.
        source_weights: Where the weights come from. Defaults to `None`, which means
            `model.source_weights`.

    Raises:
        ValueError: If it is not a `CvTModel` with one input, or if the class names do
            not fit it.
    """
    if not isinstance(model, CvTModel) or not model.stages or len(model.inputs) != 1:
        raise ValueError(
            "Expected a CvTModel with one input, as keras_cvt's builders return. "
            f"Received: model={model!r}"
        )
    description = model.description
    classes = description.classes
    if class_names is None:
        class_names = description.class_names
    elif classes:
        class_names = validation.check_class_names(class_names, classes)
    if class_names is None and description.is_classifier and classes == 1000:
        class_names = imagenet_class_names()
    return description.replace(
        # A model without classes has no use for names.
        class_names=class_names if classes else None,
        source_weights=source_weights or description.source_weights,
    )


def assemble(
    description: ModelDescription,
    batch_size: int | None,
    variant: Variant | None,
    fused: bool,
) -> dict[str, Any]:
    """Return the metadata of a file, as JSON can hold it.

    Args:
        description: The model at the exported image size.
        batch_size: Number of images per call; None for any number.
        variant: The format and quantization; None for Keras's own file.
        fused: Whether the network is fused.
    """
    values = description.to_dict()
    values["input"]["batch_size"] = batch_size
    versions = {p: importlib.metadata.version(p) for p in ("keras_cvt", "keras")}
    return values | {
        # The name of version 0.1.0, which its programs read.
        "labels": values["class_names"],
        "format": variant and variant.format.name,
        "quantization": variant and variant.quantization,
        "fused": fused,
        "versions": versions | {"tensorflow": tf.__version__},
    }


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Return the metadata of an exported file or folder.

    It is the model's description (`CvTModel.description`) as a dict, with the batch
    size, the format, the quantization, whether the network is fused, and versions.
    Files of version 0.1.0 hold `labels` instead of `class_names`, and no network.

    Args:
        path: What `keras_cvt.deploy.export` wrote.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it holds no metadata, or has none of the formats.
        ImportError: If reading the format needs a package that is missing.

    Example:
        >>> keras_cvt.deploy.read_metadata("cvt13.tflite")["source_weights"]
        'cvt13/imagenet'
    """
    path = Path(path)
    found = formats.of_path(path)
    try:
        return json.loads(found.read_metadata(path))
    # Damaged archives and texts raise all of these.
    except (OSError, KeyError, ValueError, EOFError, RuntimeError, zlib.error) as error:
        raise ValueError(
            f"Expected a {found.title} file that keras_cvt.deploy.export wrote. "
            f"Received: path={str(path)!r}"
        ) from error
