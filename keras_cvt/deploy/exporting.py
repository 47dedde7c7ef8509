"""Write a model as a file that runs without keras_cvt."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt._utils import validation
from keras_cvt._utils.files import staged
from keras_cvt.deploy import formats, metadata
from keras_cvt.deploy.file_format import ExportOptions, Variant, has_shape
from keras_cvt.deploy.fusion import fuse as fuse_model
from keras_cvt.deploy.precision import in_float32
from keras_cvt.description import other_layers
from keras_cvt.models import CvTModel

# Converters that are not Python raise errors of their own with these words.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class ExportError(ValueError):
    """A converter failed, or cannot express the network."""


def export(
    model: CvTModel,
    path: str | os.PathLike,
    format: str | None = None,
    quantization: str | None = None,
    fuse: bool = True,
    representative_images: np.ndarray | None = None,
    *,
    batch_size: int | str | None = None,
    image_size: tuple[int, int] | str | None = None,
    class_names: Sequence[str] | None = None,
    source_weights: str | None = None,
    top: int = 5,
    labels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write a model as a file (or folder) for another runtime.

    A file computes in float32, also that of a model in mixed precision, unless its
    `quantization` says otherwise.
    The file is written under a temporary name and renamed when it is complete. If
    anything fails, an earlier file stays as it was. The file carries metadata: the
    model's description, the quantization and versions.
    `keras_cvt.deploy.read_metadata` returns it.

    Args:
        model: A `CvTModel`.
        path: Where to write: `.tflite`, `.onnx`, `.xml` (OpenVINO puts a `.bin` file
            beside it), or a folder for a SavedModel.
        format: A SavedModel (`"tf_saved_model"`) needs only TensorFlow. From a
            classifier that takes RGB of 0-255 it also gets the signature
            `classify_encoded`: from JPEG or PNG bytes to class names and scores. The
            other formats are `"litert"`, `"onnx"` and `"openvino"`. The quantization
            may be part of the name, as in `"litert_int8"`. Defaults to `None`, which
            means by the path's suffix.
        quantization: `"float16"` (LiteRT, OpenVINO) stores weights in half precision.
            `"dynamic_int8"` (LiteRT) stores weights in 8 bits and quantizes
            activations at run time. `"int8"` (LiteRT) computes linear layers and
            convolutions in 8 bits and needs `representative_images`. Defaults to
            `None`.
        fuse: Whether to fuse the network first; see `keras_cvt.deploy.fuse`. Defaults
            to `True`.
        representative_images: A few hundred images (N, H, W, C) as the model takes
            them. Defaults to `None`.
        batch_size: Number of images per call, or `"dynamic"`. Defaults to `None`,
            which means 1 for LiteRT, where it is faster, and otherwise any number.
        image_size: (height, width) in pixels, or `"dynamic"`. Defaults to `None`,
            which means the model's own size, or that of its evaluation transform.
        class_names: A name for each class. Defaults to `None`, which means
            `model.class_names`, or ImageNet's names for 1000 classes.
        source_weights: Where the weights come from, for the metadata. Defaults to
            `None`, which means `model.source_weights`.
        top: Number of classes that `classify_encoded` returns. Defaults to `5`.
        labels: The name of `class_names` in version 0.1.0.

    Returns:
        The metadata that the file carries.

    Raises:
        ValueError: If an argument is out of range, the model is not a CvT or is
            quantized by Keras, or the Keras backend is not TensorFlow.
        ExportError: If the converter fails. It is a ValueError.
        ImportError: If a converter is missing. The message names the extra.
        OSError: If the file cannot be written.

    Example:
        >>> keras_cvt.deploy.export(model, "cvt13.tflite", "litert", "dynamic_int8")
    """
    path = Path(path)
    if format is None:
        known = [f for f in formats.FORMATS.values() if f.suffix == path.suffix]
        # The first format of all is a folder's, which may have any name.
        format = [*known, *formats.FORMATS.values()][0].name
    variant = formats.find_variant(format, quantization)
    _check_path(path, variant)
    check_backend(f"export model.keras {path} --format {variant.format.name}")
    names = labels if class_names is None else class_names
    description = metadata.describe(model, names, source_weights)
    validation.check_int(1, top=top)
    shape = _shape(model, description, variant, batch_size, image_size)
    images = check_representative(representative_images, variant, shape)
    network = in_float32(model)
    network = fuse_model(network) if fuse else network
    transform = description.eval_transform.at_size(*shape[1:3])
    description = description.replace(image_size=shape[1:3], eval_transform=transform)
    fused = network.stages[0].fused
    values = metadata.assemble(description, shape[0], variant, fused)
    options = ExportOptions(shape, description, values, images, top)
    with staged(path) as target:
        try:
            variant.format.write(network, target, options)
        except (OSError, ImportError, MemoryError):
            raise
        # A converter may raise any error, often with pages of its own stack.
        except Exception as error:
            for code in _DISK_ERRORS:
                if os.strerror(code) in str(error):
                    raise OSError(code, os.strerror(code), str(path)) from error
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            others = [layer.name for layer in other_layers(model)]
            around = f" Layers around the network: {others}." if others else ""
            raise ExportError(
                f"{variant.title} cannot express this network, or its converter "
                f"failed; try another format.{around} "
                f"Received: {type(error).__name__}: {lines[0][:300]}"
            ) from error
    return values


def _check_path(path, variant):
    suffix = variant.format.suffix
    if suffix and path.suffix != suffix:
        raise ValueError(
            f"Expected a path that ends in {suffix} for format "
            f"{variant.format.name!r}. Received: path={str(path)!r}"
        )
    earlier = any(known.recognises(path) for known in formats.FORMATS.values())
    is_file = not variant.format.marker
    if path.is_dir() and not earlier and (is_file or any(path.iterdir())):
        raise ValueError(
            "Expected a path to write to, but it is a folder that holds something "
            f"else. Received: path={str(path)!r}"
        )


def check_backend(command: str) -> None:
    """Raise ValueError unless the Keras backend is TensorFlow.

    Args:
        command: The arguments of `keras-cvt` that do the same, for the message.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Exporting needs the TensorFlow backend. Save the model as model.keras and "
            f"run `KERAS_BACKEND=tensorflow keras-cvt {command}`. "
            f"Received: backend={keras.backend.backend()!r}"
        )


def _shape(model, description, variant, batch_size, image_size):
    """Return (B, H, W, C) of the images; None for any size."""
    if batch_size is None:
        batch_size = variant.format.default_batch_size
    elif batch_size == "dynamic":
        batch_size = None
    else:
        validation.check_int(1, batch_size=batch_size)
    own_size = description.image_size
    if image_size is None:
        any_size = None in own_size
        image_size = description.eval_transform.image_size if any_size else own_size
    if image_size == "dynamic":
        image_size = (None, None)
    else:
        expected = "(height, width) or 'dynamic'"
        validation.check(validation.is_pair, expected, image_size=image_size)
        validation.check_int(1, height=image_size[0], width=image_size[1])
    pairs = zip(own_size, image_size, strict=True)
    if any(own not in (None, wanted) for own, wanted in pairs):
        raise ValueError(
            f"Expected the model's own image size, {own_size}. "
            f"Received: image_size={image_size}"
        )
    shape = (batch_size, *image_size, description.channels)
    model.compute_output_shape(shape)
    return shape


def check_representative(
    images: np.ndarray | None, variant: Variant, shape: tuple[int | None, ...]
) -> np.ndarray | None:
    """Return representative images as float32, or None if none are needed.

    Args:
        images: `representative_images` of `export`.
        variant: The format and quantization.
        shape: (B, H, W, C) of the images that the file takes; None for any size.

    Raises:
        ValueError: If they are missing, have the wrong shape, or are given although
            the variant does not need them.
    """
    if not variant.needs_images and images is None:
        return None
    if not variant.needs_images:
        needing = [v.name for v in formats.variants().values() if v.needs_images]
        raise ValueError(
            f"`representative_images` are only for {', '.join(needing)}. "
            f"Received: format={variant.name!r}"
        )
    found = np.asarray([] if images is None else images, "float32")
    if not has_shape(found, shape[1:]) or len(found) < (shape[0] or 1):
        raise ValueError(
            f"{variant.name!r} needs `representative_images` (N, H, W, C) as the file "
            f"takes them, {shape}, at least one batch. Received: shape={found.shape}"
        )
    return found
