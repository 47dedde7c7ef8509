"""Exports small networks in a process of its own: the LiteRT converter leaks.

python export_worker.py FOLDER
"""

import sys
from pathlib import Path

import networks

from keras_cvt.config import CVT_13
from keras_cvt.deploy import export

# File -> network, format and further arguments.
FILES = {
    **{f"{i}.tflite": (name, "litert", {}) for i, name in enumerate(networks.CONFIGS)},
    "saved_model": ("as published", "tf_saved_model", {"labels": list("abcdefghij")}),
    "saved_model_unfused": ("linear", "tf_saved_model", {"fuse": False}),
    "model.onnx": ("as published", "onnx", {}),
    # tf2onnx does not know its erfc.
    "gelu.onnx": ("no class token, exact GELU", "onnx", {}),
    "avg.onnx": ("avg, class tokens everywhere", "onnx", {"batch_size": 2}),
    "model.xml": ("as published", "openvino", {}),
    "half.xml": (
        "avg, class tokens everywhere",
        "openvino",
        {"quantization": "float16"},
    ),
    "half.tflite": ("as published", "litert", {"quantization": "float16"}),
    "dynamic_int8.tflite": ("as published", "litert", {"quantization": "dynamic_int8"}),
    "int8.tflite": (
        "as published",
        "litert",
        {
            "quantization": "int8",
            "representative_images": networks.images(8, 64, 64, 3, seed=1),
        },
    ),
    "any_size.tflite": (
        "as published",
        "litert",
        {"batch_size": "dynamic", "image_size": "dynamic"},
    ),
}


FULL_SIZE = ("cvt13.tflite", "cvt13.onnx", "cvt13.xml", "cvt13")
_FORMATS = {".tflite": "litert", ".onnx": "onnx", ".xml": "openvino"}


def full_size_model():
    return networks.build(CVT_13, classes=1000)


def model(file):
    name, _, _ = FILES[file]
    return networks.build(networks.CONFIGS[name], input_shape=(None, None, 3))


def main():
    folder = Path(sys.argv[1])
    if sys.argv[2:]:
        for file in FULL_SIZE:
            format = _FORMATS.get(Path(file).suffix, "tf_saved_model")
            export(full_size_model(), folder / file, format)
        return
    for file, (_, format, arguments) in FILES.items():
        arguments = {"image_size": (64, 64)} | arguments
        export(
            model(file), folder / file, format, source_weights="made up", **arguments
        )


if __name__ == "__main__":
    main()
