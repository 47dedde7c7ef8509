"""What an exported file says about itself, and where each format keeps it."""

import importlib.metadata
import json
import os
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import keras

from keras_cvt.preprocessing import EvalTransform

KEY = "keras_cvt"
_FILE = "keras_cvt.json"


def describe(
    model: keras.Model,
    outputs: str,
    shape: tuple[int | None, ...],
    transform: EvalTransform,
    labels: list[str] | None,
    source_weights: str | None,
    quantization: str | None,
    fused: bool,
) -> dict[str, Any]:
    """Return the metadata of an exported model, as JSON can hold it.

    Args:
        model: The model.
        outputs: `"probabilities"`, `"logits"` or `"features"`.
        shape: Of the images that the file takes, (B, H, W, C); None where any.
        transform: How images are resized and cropped for it.
        labels: Names of the classes, or None.
        source_weights: Where the weights came from.
        quantization: As given to `export`.
        fused: Whether the network was fused.
    """
    preprocessing = model.get_layer("preprocessing")
    return {
        "labels": labels,
        "input": {
            "layout": "NHWC",
            "batch_size": shape[0],
            "image_size": list(shape[1:3]),
            "channels": shape[-1],
            # What to feed: pixels, or images that the caller has normalised.
            "range": [0, 255] if preprocessing.normalize else None,
            "eval_transform": transform.to_dict(),
        },
        "outputs": outputs,
        "source_weights": source_weights,
        "quantization": quantization,
        "fused": fused,
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("keras_cvt", "keras")
        }
        | {"tensorflow": _tensorflow_version()},
    }


def _tensorflow_version():
    import tensorflow as tf

    return tf.__version__


def write_saved_model(folder: Path, metadata: dict[str, Any]) -> None:
    """Put the metadata where SavedModel leaves room for others' files."""
    target = folder / "assets.extra" / _FILE
    target.parent.mkdir()
    target.write_text(json.dumps(metadata, indent=2), encoding="utf-8")


def write_litert(path: Path, metadata: dict[str, Any]) -> None:
    """Append the metadata as a ZIP archive, as LiteRT's own metadata files are."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_FILE, json.dumps(metadata, indent=2))


def read(path: str | os.PathLike) -> dict[str, Any]:
    """Return the metadata of an exported file or folder.

    Args:
        path: What `keras_cvt.deploy.export` wrote.

    Raises:
        ValueError: If it holds none, or is of no known format.
        ImportError: If reading this format needs a package that is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}")
    try:
        if path.is_dir():
            text = (path / "assets.extra" / _FILE).read_text(encoding="utf-8")
        elif path.suffix == ".tflite":
            with zipfile.ZipFile(path) as archive:
                text = archive.read(_FILE).decode("utf-8")
        elif path.suffix == ".onnx":
            text = _read_onnx(path)
        else:
            text = _read_openvino(path)
    except (OSError, KeyError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise ValueError(
            f"Expected a file that keras_cvt.deploy.export wrote. Received: {path}"
        ) from error
    return json.loads(text)


def _read_onnx(path):
    from keras_cvt.deploy.packages import require

    onnx = require("onnx", "onnx")
    message = require("google.protobuf.message", "onnx")
    try:
        model = onnx.load(path, load_external_data=False)
    except message.DecodeError as error:
        raise KeyError(KEY) from error
    return {entry.key: entry.value for entry in model.metadata_props}[KEY]


def _read_openvino(path):
    node = ElementTree.parse(path).find(f"./rt_info/{KEY}")
    if node is None:
        raise KeyError(KEY)
    return node.get("value")
