"""OpenVINO, by its own converter from a SavedModel."""

import tempfile
from pathlib import Path

import keras

from keras_cvt.deploy import saved_model
from keras_cvt.deploy.metadata import KEY
from keras_cvt.deploy.packages import require

QUANTIZATIONS = (None, "float16")


def write(
    model: keras.Model,
    path: Path,
    shape: tuple[int | None, ...],
    metadata: str,
    quantization: str | None = None,
) -> None:
    """Write OpenVINO's pair of files, `path` (.xml) and the .bin beside it.

    Args:
        model: The model.
        path: Where to write the .xml.
        shape: Of the images, (B, H, W, C).
        metadata: JSON text.
        quantization: None, or `"float16"` for weights in half precision.
    """
    openvino = require("openvino", "openvino")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        saved_model.write(model, Path(folder), shape, constants=False)
        converted = openvino.convert_model(folder)
    converted.set_rt_info(metadata, KEY)
    openvino.save_model(converted, path, compress_to_fp16=quantization == "float16")
