"""Runs exported files as their users do: in their own runtimes, without keras_cvt.

python clean_process.py FOLDER NAME...

Runs the files NAME in every folder of FOLDER, and saves their outputs beside them.
"""

import os
import subprocess
import sys
from pathlib import Path

# File -> packages that it must not need.
FILES = {
    "saved_model": ["keras_cvt", "keras"],
    "model.tflite": ["keras_cvt", "keras", "tensorflow"],
    "model.onnx": ["keras_cvt", "keras", "tensorflow"],
    "model.xml": ["keras_cvt", "keras", "tensorflow"],
}


def saved_model(path, images):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    return loaded.signatures["serving_default"](images=tf.constant(images))["outputs"]


def litert(path, images):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(path).get_signature_runner("serving_default")
    return runner(images=images)["outputs"]


def onnx(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["outputs"], {"images": images})[0]


def openvino(path, images):
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.compile_model(path, "CPU", hint)(images)["outputs"]


RUNTIMES = {
    "saved_model": saved_model,
    "model.tflite": litert,
    "model.onnx": onnx,
    "model.xml": openvino,
}


def run(folder, name):
    """Run the files `name` in the folders of `folder` in a new process."""
    # Tests find keras_cvt by this path.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder), name],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def main():
    import numpy as np

    folder, *names = sys.argv[1:]
    images = np.load(Path(folder) / "images.npy")
    for name in names:
        # From here on an import of these fails.
        sys.modules.update(dict.fromkeys(FILES[name]))
        for path in sorted(Path(folder).glob(f"*/{name}")):
            outputs = RUNTIMES[name](str(path), images)
            np.save(path.parent / f"{name}.npy", np.asarray(outputs))


if __name__ == "__main__":
    main()
