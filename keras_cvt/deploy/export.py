"""From a model to a file that runs without keras_cvt."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt import validation
from keras_cvt.deploy import litert, metadata, onnx, openvino, saved_model
from keras_cvt.deploy.fuse import fuse as fuse_model
from keras_cvt.deploy.fused_layers import FusedStage
from keras_cvt.preprocessing import EvalTransform
from keras_cvt.preprocessing.predictions import imagenet_labels

SUFFIXES = {
    "tf_saved_model": "",
    "litert": ".tflite",
    "onnx": ".onnx",
    "openvino": ".xml",
}
_QUANTIZATIONS = {
    "tf_saved_model": (None,),
    "litert": litert.QUANTIZATIONS,
    "onnx": (None,),
    "openvino": openvino.QUANTIZATIONS,
}


def export(
    model: keras.Model,
    path: str | os.PathLike,
    format: str = "tf_saved_model",
    quantization: str | None = None,
    fuse: bool = True,
    representative_images: np.ndarray | None = None,
    *,
    batch_size: int | str | None = None,
    image_size: tuple[int, int] | str | None = None,
    labels: Sequence[str] | None = None,
    source_weights: str | None = None,
    top: int = 5,
) -> dict[str, Any]:
    """Write a model as a file (or folder) for another runtime.

    It is written under a temporary name and renamed when complete: whatever goes
    wrong, an earlier file stays. Metadata (labels, input range and size, evaluation
    transform, origin, versions) travels in it; `keras_cvt.deploy.read_metadata`
    returns it.

    Args:
        model: A `CvTModel`.
        path: Where to write: `….tflite`, `….onnx`, `….xml` (OpenVINO puts a .bin
            beside it), or a folder for a SavedModel.
        format: `"tf_saved_model"` (needs TensorFlow alone; a classifier that takes
            pixels also gets the signature `classify_encoded`, from JPEG or PNG bytes
            to labels and scores), `"litert"`, `"onnx"` or `"openvino"`.
        quantization: None; `"float16"` (LiteRT, OpenVINO), weights in half
            precision; `"dynamic_int8"` (LiteRT), weights in 8 bits, activations
            quantized as they come; `"int8"` (LiteRT), linear layers and convolutions
            wholly in 8 bits, which takes `representative_images`.
        fuse: Whether to fuse the network first; see `keras_cvt.deploy.fuse`.
        representative_images: Some hundred images (N, H, W, C) such as the model
            takes.
        batch_size: Images a call, or `"dynamic"`. None means 1 for LiteRT, which is
            faster so, and any number otherwise.
        image_size: (height, width), or `"dynamic"`. None means the model's own size,
            or else that of its evaluation transform.
        labels: A name for each class; None means `model.labels`, or ImageNet's for
            1000 classes.
        source_weights: What the metadata says of the weights' origin.
        top: Classes that `classify_encoded` answers with.

    Returns:
        The metadata that the file carries.

    Raises:
        ValueError: If an argument is out of range, the model is no CvT or the Keras
            backend is not TensorFlow.
        ImportError: If a converter is missing; the message names the extra.
        OSError: If the file cannot be written.

    Example:
        >>> keras_cvt.deploy.export(model, "cvt13.tflite", "litert", "dynamic_int8")
    """
    path = Path(path)
    validation.check_choice(tuple(SUFFIXES), format=format)
    _check_quantization(format, quantization)
    _check_path(path, format)
    _check_backend(format, path)
    check_model(model)
    validation.check_int(1, top=top)
    shape = _shape(model, format, batch_size, image_size)
    images = check_representative(representative_images, quantization, shape)
    outputs = kind_of_outputs(model)
    labels = _labels(labels, model, outputs)

    network = fuse_model(model) if fuse else model
    fused = isinstance(network.stages[0], FusedStage)
    transform = model.eval_transform
    if None not in shape[1:3]:
        transform = EvalTransform(shape[1:3], transform.crop_ratio)
    described = metadata.describe(
        model, outputs, shape, transform, labels, source_weights, quantization, fused
    )

    def write(target):
        if format == "tf_saved_model":
            encoded = (
                model.get_layer("preprocessing").normalize and outputs != "features"
            )
            saved_model.write(
                network, target, shape, labels, transform if encoded else None, top
            )
            metadata.write_saved_model(target, described)
        elif format == "litert":
            litert.write(network, target, shape, quantization, images)
            metadata.write_litert(target, described)
        elif format == "onnx":
            onnx.write(network, target, shape, json.dumps(described))
        else:
            openvino.write(network, target, shape, json.dumps(described), quantization)

    _write_then_rename(write, path)
    return described


def _check_quantization(format, quantization):
    choices = _QUANTIZATIONS[format]
    if quantization not in choices:
        raise ValueError(
            f"Expected for format {format!r} a `quantization` of "
            f"{', '.join(map(repr, choices))}. Received: quantization={quantization!r}"
        )


def _check_path(path, format):
    if path.suffix != SUFFIXES[format] and SUFFIXES[format]:
        raise ValueError(
            f"Expected a path that ends in {SUFFIXES[format]} for format {format!r}. "
            f"Received: path={str(path)!r}"
        )
    is_model = (path / "saved_model.pb").is_file()
    if path.is_dir() and not is_model and (SUFFIXES[format] or any(path.iterdir())):
        raise ValueError(
            "Expected a path to write to; there is a folder that holds something "
            f"else. Received: path={str(path)!r}"
        )


def _check_backend(format, path):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected the TensorFlow backend, where graphs are made. Save the model as "
            "model.keras and run `KERAS_BACKEND=tensorflow keras-cvt export "
            f"model.keras {path} --format {format}`. "
            f"Received: backend={keras.backend.backend()!r}"
        )


def check_model(model: Any) -> None:
    """Raise ValueError unless a model is one that `export` takes."""
    from keras_cvt.models import CvTModel

    if not isinstance(model, CvTModel) or not model.stages or len(model.inputs) != 1:
        raise ValueError(
            "Expected a CvTModel with one input, as keras_cvt's builders return. "
            f"Received: model={model!r}"
        )


def _shape(model, format, batch_size, image_size):
    """Return the (B, H, W, C) to export for; None where any size will do."""
    if batch_size is None:
        batch_size = 1 if format == "litert" else "dynamic"
    if batch_size == "dynamic":
        batch_size = None
    else:
        validation.check_int(1, batch_size=batch_size)
    own_size = model.input.shape[1:3]
    if image_size is None:
        image_size = model.eval_transform.image_size if None in own_size else own_size
    if image_size == "dynamic":
        image_size = (None, None)
    elif not isinstance(image_size, (tuple, list)) or len(image_size) != 2:
        raise ValueError(
            "Expected (height, width) or 'dynamic'. "
            f"Received: image_size={image_size!r}"
        )
    else:
        validation.check_int(1, height=image_size[0], width=image_size[1])
    for own, asked in zip(own_size, image_size, strict=True):
        if own not in (None, asked):
            raise ValueError(
                f"Expected the model's own image size, {tuple(own_size)}. "
                f"Received: image_size={image_size}"
            )
    model.compute_output_shape((batch_size, *image_size, model.input.shape[-1]))
    return (batch_size, *image_size, model.input.shape[-1])


def check_representative(
    images: np.ndarray | None, quantization: str | None, shape: tuple[int | None, ...]
) -> np.ndarray | None:
    """Return representative images as float32, or None where none serve.

    Args:
        images: As given to `export`.
        quantization: As given to `export`.
        shape: Of what the file takes, (B, H, W, C); None where any.

    Raises:
        ValueError: If they do not fit, lack or serve nothing.
    """
    if quantization != "int8":
        if images is not None:
            raise ValueError(
                "`representative_images` serve `quantization='int8'` alone. "
                f"Received: quantization={quantization!r}"
            )
        return None
    images = np.asarray([] if images is None else images, "float32")
    matches = images.ndim == 4 and all(
        expected in (None, found)
        for expected, found in zip(shape[1:], images.shape[1:], strict=True)
    )
    if not matches or len(images) < (shape[0] or 1):
        raise ValueError(
            "Expected `representative_images` (N, H, W, C) such as the model takes, "
            f"{shape}, at least one batch of them. Received: shape={images.shape}"
        )
    return images


def kind_of_outputs(model: keras.Model) -> str:
    """Return `"probabilities"`, `"logits"` or `"features"`."""
    activation = getattr(model.layers[-1], "activation", None)
    if model.layers[-1].name != "head":
        return "features"
    return "logits" if activation is keras.activations.linear else "probabilities"


def _labels(labels, model, outputs):
    if outputs == "features":
        return None
    classes = model.output.shape[-1]
    labels = model.labels if labels is None else labels
    if labels is None:
        return imagenet_labels() if classes == 1000 else None
    return list(validation.check_labels(labels, classes))


def _write_then_rename(write: Callable[[Path], None], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".exporting-") as folder:
        folder = Path(folder)
        written = folder / "new" / path.name
        written.parent.mkdir()
        write(written)
        # The named file comes last: whoever finds it finds all of it.
        for file in sorted(written.parent.iterdir(), key=lambda f: f == written):
            target = path.with_name(file.name)
            if target.is_dir():
                # A folder cannot take a full one's place in one step.
                os.rename(target, folder / "old")
            os.replace(file, target)
