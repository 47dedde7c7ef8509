"""Write a model as a file that runs without keras_cvt."""

import errno
import os
import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cvt._utils import foreign_output, validation
from keras_cvt._utils.files import staged
from keras_cvt._utils.optional import tf
from keras_cvt.deploy import formats, metadata
from keras_cvt.deploy.checks import (
    ExportError,
    check_backend,
    check_path,
    check_representative,
)
from keras_cvt.deploy.fastest import FASTEST, export_fastest
from keras_cvt.deploy.file_format import ExportOptions
from keras_cvt.deploy.fusion import fuse as fuse_model
from keras_cvt.deploy.precision import in_float32
from keras_cvt.description import other_layers
from keras_cvt.models import CvTModel

# Converters that are not Python raise errors of their own with these words.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


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
    images: np.ndarray | None = None,
    max_drop: float | None = None,
    threads: int | None = None,
    runtime: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Write a model as a file (or folder) for another runtime.

    A file computes in float32, also that of a model in mixed precision, unless its
    `quantization` says otherwise.
    The file is written under a temporary name and renamed when it is complete. If
    anything fails, an earlier file stays as it was. The file carries metadata: the
    model's description, the quantization and versions.
    `keras_cvt.deploy.read_metadata` returns it.

    `"fastest"` exports every format in every quantization, fused, for one image per
    call or `batch_size`, and runs each with its own runtime. A candidate that cannot be
    made or run here is left out. One is kept if `max_drop` allows its answers and its
    outputs have an overall cosine of 0.95 with the model's. The fastest of them is
    written to `path` with its suffix added. A path that ends in a format's suffix
    limits the candidates to that format. If none keeps the limit, the fastest float32
    file is written. `representative_images` are `images` by default.

    Args:
        model: A `CvTModel`.
        path: Where to write: `.tflite`, `.onnx`, `.xml` (OpenVINO puts a `.bin` file
            beside it), or a folder for a SavedModel or a web page.
        format: A SavedModel (`"tf_saved_model"`) needs only TensorFlow. From a
            classifier that takes RGB of 0-255 it also gets the signature
            `classify_encoded`: from JPEG or PNG bytes to class names and scores. The
            other formats are `"litert"`, `"onnx"`, `"openvino"` and `"web"`, a page
            that classifies photos in the visitor's browser with an ONNX file. The
            quantization may be part of the name, as in `"litert_int8"`. `"fastest"`
            measures all but pages on this machine and keeps one. Defaults to `None`,
            which means by the path's suffix.
        quantization: `"float16"` (LiteRT, OpenVINO) stores weights in half precision.
            `"bfloat16"` (OpenVINO) computes in bfloat16, if the file is opened by
            keras_cvt or with `INFERENCE_PRECISION_HINT=bf16`.
            `"dynamic_int8"` (LiteRT, web page) stores weights in 8 bits and quantizes
            activations at run time. `"int8"` (LiteRT) computes linear layers and
            convolutions in 8 bits and needs `representative_images`. Defaults to
            `None`.
        fuse: Whether to fuse the network first; see `keras_cvt.deploy.fuse`. Defaults
            to `True`.
        representative_images: A few hundred images (N, H, W, C) as the model takes
            them. Defaults to `None`.
        batch_size: Number of images per call, or `"dynamic"`. Defaults to `None`,
            which means 1 for LiteRT and a web page, where it is faster, and otherwise
            any number.
        image_size: (height, width) in pixels, or `"dynamic"`. Defaults to `None`,
            which means the model's own size, or that of its evaluation transform.
        class_names: A name for each class. Defaults to `None`, which means
            `model.class_names`, or ImageNet's names for 1000 classes.
        source_weights: Where the weights come from, for the metadata. Defaults to
            `None`, which means `model.source_weights`.
        top: Number of classes that `classify_encoded` returns, or that a web page
            shows. Defaults to `5`.
        labels: The name of `class_names` in version 0.1.0.
        images: For `"fastest"`, which needs them: images (N, H, W, C) as the model
            takes them, to measure and compare on. The file is for their size.
        max_drop: For `"fastest"`: percent of the images whose best class may be another
            than the model's. For a sigmoid, percent of the decisions; for regression
            and features, the relative error in percent. Defaults to `None`, which
            means 0.1: one image of 1000.
        threads: For `"fastest"`: number of threads of the runtimes. TensorFlow has one
            number for the whole process, which this does not change. Defaults to
            `None`, which means one thread for each processor.
        runtime: For a web page: a folder with the files of ONNX Runtime Web, `dist` of
            the npm package onnxruntime-web, to copy into the page. Defaults to `None`,
            which means that the page loads them from cdn.jsdelivr.net.

    Returns:
        The metadata that the file carries. For `"fastest"` it is a
        `keras_cvt.deploy.Fastest`: its `path` is the file's, its `passed` tells whether
        the limit was kept, and `print` shows what was chosen, why, and the others.

    Raises:
        ValueError: If an argument is out of range, the model is not a CvT or is
            quantized by Keras, or the Keras backend is not TensorFlow.
        ExportError: If the converter fails. It is a ValueError.
        ImportError: If a converter is missing. The message names the extra.
        OSError: If the file cannot be written.

    Example:
        >>> keras_cvt.deploy.export(model, "cvt13.tflite", "litert", "dynamic_int8")
        >>> print(keras_cvt.deploy.export(model, "cvt13", "fastest", images=images))
    """
    path = Path(path)
    names = labels if class_names is None else class_names
    if format == FASTEST:
        fixed: dict[str, Any] = {"fuse": True, "quantization": None, "top": 5}
        fixed |= {"image_size": None, "runtime": None}
        given = {
            "fuse": fuse,
            "quantization": quantization,
            "image_size": image_size,
            "top": top,
            "runtime": runtime,
        }
        if given != fixed:
            raise ValueError(
                f"With format={format!r} these arguments must be {fixed}: candidates "
                "are fused, in every quantization, and of the images' size. "
                f"Received: {given}"
            )
        return export_fastest(
            model,
            path,
            images,
            max_drop=max_drop,
            batch_size=batch_size,
            threads=threads,
            representative_images=representative_images,
            class_names=names,
            source_weights=source_weights,
        )
    if not all(each is None for each in (images, max_drop, threads)):
        raise ValueError(
            f"`images`, `max_drop` and `threads` are only for format={FASTEST!r}. "
            f"Received: format={format!r}"
        )
    format = formats.for_path(path).name if format is None else format
    variant = formats.find_variant(format, quantization)
    check_path(path, variant)
    if runtime is not None and not variant.format.is_page:
        raise ValueError(
            "`runtime` is only for a web page, whose files it is copied to. "
            f"Received: runtime={str(runtime)!r}, format={variant.name!r}"
        )
    check_backend(f"export model.keras {path} --format {variant.format.name}")
    description = metadata.describe(model, names, source_weights)
    validation.check_int(1, top=top)
    shape = _shape(model, description, variant, batch_size, image_size)
    representative = check_representative(representative_images, variant, shape)
    network = in_float32(model)
    network = fuse_model(network) if fuse else network
    transform = description.eval_transform.at_size(*shape[1:3])
    description = description.replace(image_size=shape[1:3], eval_transform=transform)
    fused = network.stages[0].fused
    values = metadata.assemble(description, shape[0], variant, fused)
    beside = None if runtime is None else Path(runtime)
    options = ExportOptions(shape, description, values, representative, top, beside)
    with staged(path) as target:
        try:
            with foreign_output.kept_back():
                variant.format.write(network, target, options)
        except (OSError, ImportError):
            raise
        # A converter may raise any error, often with pages of its own stack.
        except Exception as error:
            for code in _DISK_ERRORS:
                if os.strerror(code) in str(error):
                    raise OSError(code, os.strerror(code), str(path)) from error
            others = [layer.name for layer in other_layers(model)]
            around = f" Layers around the network: {others}." if others else ""
            problem = (
                f"{variant.title} cannot express this network, or its converter "
                f"failed; try another format.{around}"
            )
            if isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError)):
                problem = (
                    f"Memory ran out while {variant.title} was written; pass a smaller "
                    "`image_size` or `batch_size`, or free some."
                )
            elif _is_ours(error):
                raise
            # Keras puts the message of a layer in bold between lines of its own.
            bold = re.search("\x1b\\[1m(.*)\x1b\\[0m", str(error), re.DOTALL)
            text = bold[1] if bold else str(error)
            lines = [line for line in text.splitlines() if line.strip()] or [""]
            raise ExportError(
                f"{problem} Received: {type(error).__name__}: {lines[0][:300]}"
            ) from error
    return values


def _is_ours(error):
    """Return whether Python code of keras_cvt raised an error, and no converter."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(frame.filename).is_relative_to(Path(__file__).parent.parent)
    # Those of a converter in C++ have no frame of their own.
    return ours and not isinstance(error, RuntimeError)


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
