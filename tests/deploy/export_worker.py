"""Exports small networks in a subprocess, because the LiteRT converter leaks.

python export_worker.py FOLDER [projections | cvt13]
"""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import networks
import numpy as np

from keras_cvt.config import CVT_13
from keras_cvt.deploy import FORMATS, conversions, export, formats, fuse

# File -> network, format and further arguments.
FILES = {
    **{f"{i}.tflite": (name, "litert", {}) for i, name in enumerate(networks.CONFIGS)},
    "saved_model": (
        "as published",
        "tf_saved_model",
        {"class_names": list("abcdefghij")},
    ),
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


# Names in `FORMATS`. `test_web.py` tests pages.
FULL_PRECISION = tuple(n for n, f in formats.FORMATS.items() if not f.is_page)
FULL_SIZE = (*FULL_PRECISION, "litert_dynamic_int8", "litert_int8")


def full_size_model():
    return networks.build(CVT_13, classes=1000)


def model(file):
    return _model(FILES[file][0])


@functools.cache
def _model(name):
    return networks.build(networks.CONFIGS[name], input_shape=(None, None, 3))


def export_full_size(folder, kept):
    """Export CvT-13 in every format."""
    fused = fuse(full_size_model())
    for format, quantization, file in map(FORMATS.get, FULL_SIZE):
        images = None
        if quantization == "int8":
            # Only the files' size is tested. Small networks test their agreement.
            images = networks.images(1, 224, 224, 3)
        with conversions.kept_in(kept):
            export(
                *(fused, folder / file, format, quantization),
                representative_images=images,
            )


def export_projections(folder, kept):
    """Export every projection in every format, with the Keras model's logits."""
    images = networks.images(1, 36, 44, 3)
    np.save(folder / "images.npy", images)
    for i, config in enumerate(networks.PROJECTIONS.values()):
        network = networks.build(config, input_shape=(36, 44, 3))
        (folder / str(i)).mkdir()
        np.save(folder / str(i) / "expected.npy", network.predict(images, verbose=0))
        for format, quantization, file in map(FORMATS.get, FULL_PRECISION):
            with conversions.kept_in(kept / str(i)):
                export(network, folder / str(i) / file, format, quantization)


def run(folder, *arguments):
    """Run this file in a subprocess."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*paths, *sys.path]),
        "KERAS_BACKEND": "tensorflow",
    }
    command = [sys.executable, __file__, folder, *arguments]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=environment
    )
    assert result.returncode == 0, result.stderr[-3000:]


def export_files(folder, kept):
    """Export `FILES`."""
    for file, (name, format, arguments) in FILES.items():
        arguments = {"image_size": (64, 64), "source_weights": "made up"} | arguments
        # What other networks are converted to is not kept: both ways are tested.
        with contextlib.ExitStack() as stack:
            if name == "as published":
                stack.enter_context(conversions.kept_in(kept))
            export(model(file), folder / file, format, **arguments)


def main():
    works = {"projections": export_projections, "cvt13": export_full_size}
    work = works[sys.argv[2]] if sys.argv[2:] else export_files
    with tempfile.TemporaryDirectory() as kept:
        work(Path(sys.argv[1]), Path(kept))


if __name__ == "__main__":
    main()
