"""Runs exported files as their users do: without keras_cvt, in each file's own runtime.

python run_alone.py FOLDER NAME...: of each numbered folder in FOLDER, the files NAME.
"""

import os
import subprocess
import sys
from pathlib import Path

# Of TensorFlow, only what has no other runtime.
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


def in_clean_process(folder, name):
    """Run the files `name` of the numbered folders in `folder`."""
    # Not where the tests find keras_cvt.
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
        # An import of these fails from here on.
        sys.modules.update(dict.fromkeys(FILES[name]))
        for path in sorted(Path(folder).glob(f"*/{name}")):
            outputs = RUNTIMES[name](str(path), images)
            np.save(path.parent / f"{name}.npy", np.asarray(outputs))


if __name__ == "__main__":
    main()
