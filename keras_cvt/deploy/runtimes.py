"""Exported files in their own runtimes, behind one call."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_cvt.deploy.packages import require


@dataclass(frozen=True)
class Runtime:
    """An exported file, ready to run.

    Attributes:
        format: As `keras_cvt.deploy.export` calls it.
        batch_size: Images a call, or None if any number.
        call: From images, float32 (B, H, W, C), to the list of outputs.
    """

    format: str
    batch_size: int | None
    call: Callable[[np.ndarray], list[np.ndarray]]

    def images_a_call(self, images: np.ndarray) -> int:
        """Return how many of these images (N, H, W, C) go into one call.

        Where any number does: 8 of 224 x 224, and fewer of larger ones, whose
        attention takes gigabytes.
        """
        height, width = images.shape[1:3]
        return self.batch_size or min(8, max(1, 8 * 224**2 // (height * width)))

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the outputs of any number of images."""
        size = self.images_a_call(images)
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            count = len(batch)
            if self.batch_size is not None and count < size:
                batch = np.concatenate([batch, np.repeat(batch[-1:], size - count, 0)])
            parts.append([output[:count] for output in self.call(batch)])
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def open_file(path: str | os.PathLike, threads: int | None = None) -> Runtime:
    """Open what `keras_cvt.deploy.export` wrote.

    Args:
        path: A `.tflite`, `.onnx` or `.xml` file, or a SavedModel's folder.
        threads: How many the runtime uses; None leaves it the processor's count.
            TensorFlow's count is set for the whole process, not here.

    Raises:
        ValueError: If the path names no known format.
        ImportError: If the runtime is missing; the message names the extra.
        FileNotFoundError: If there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}")
    threads = threads or os.cpu_count()
    openers = {".tflite": _litert, ".onnx": _onnx, ".xml": _openvino}
    if path.suffix in openers and path.is_file():
        return openers[path.suffix](path, threads)
    if (path / "saved_model.pb").is_file():
        return _saved_model(path)
    raise ValueError(
        "Expected a .tflite, .onnx or .xml file, or a SavedModel's folder. "
        f"Received: {path}"
    )


def check_installed(format: str) -> None:
    """Raise ImportError if a format's runtime is missing; the message says the extra.

    Args:
        format: As `keras_cvt.deploy.export` calls it.
    """
    if format in _MODULES:
        require(*_MODULES[format])


# Module and the extra that installs it.
_MODULES = {
    "litert": ("ai_edge_litert.interpreter", "litert"),
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino"),
}


def _saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    names = sorted(signature.structured_outputs)
    (spec,) = signature.structured_input_signature[1].values()

    def call(images):
        # `loaded` owns the signature's resources.
        outputs = loaded.signatures["serving_default"](images=tf.constant(images))
        return [outputs[name].numpy() for name in names]

    return Runtime("tf_saved_model", spec.shape[0], call)


def _litert(path, threads):
    litert = require(*_MODULES["litert"])
    interpreter = litert.Interpreter(str(path), num_threads=threads)
    (entry,) = interpreter.get_input_details()
    runner = interpreter.get_signature_runner("serving_default")
    batch_size = int(entry["shape_signature"][0])

    def call(images):
        outputs = runner(images=images)
        return [outputs[name] for name in sorted(outputs)]

    return Runtime("litert", None if batch_size < 0 else batch_size, call)


def _onnx(path, threads):
    onnxruntime = require(*_MODULES["onnx"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    names = sorted(output.name for output in session.get_outputs())
    batch_size = session.get_inputs()[0].shape[0]

    def call(images):
        return session.run(names, {"images": images})

    return Runtime("onnx", batch_size if isinstance(batch_size, int) else None, call)


def _openvino(path, threads):
    openvino = require(*_MODULES["openvino"])
    compiled = openvino.compile_model(
        str(path),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Its default is bfloat16 where the processor has it.
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    batch_size = compiled.inputs[0].partial_shape[0]
    names = sorted(output.any_name for output in compiled.outputs)

    def call(images):
        results = compiled(images)
        return [results[name].copy() for name in names]

    return Runtime(
        "openvino",
        batch_size.get_length() if batch_size.is_static else None,
        call,
    )
