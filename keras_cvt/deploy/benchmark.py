"""How fast, how large and how true is each file that a model can become here?"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt import validation
from keras_cvt.deploy import metadata, processes, runtimes
from keras_cvt.deploy.export import check_model, check_representative, kind_of_outputs
from keras_cvt.deploy.fuse import fuse
from keras_cvt.deploy.measurements import Benchmark, Measurement
from keras_cvt.deploy.verify import checked, compare, in_order, outputs
from keras_cvt.files import write_whole

# Name -> format and quantization of `export`, and the file's name.
FORMATS = {
    "keras": (None, None, "model.keras"),
    "fused": (None, None, "fused.keras"),
    "saved_model": ("tf_saved_model", None, "saved_model"),
    "litert": ("litert", None, "model.tflite"),
    "litert_float16": ("litert", "float16", "model_float16.tflite"),
    "litert_dynamic_int8": ("litert", "dynamic_int8", "model_dynamic_int8.tflite"),
    "litert_int8": ("litert", "int8", "model_int8.tflite"),
    "onnx": ("onnx", None, "model.onnx"),
    "openvino": ("openvino", None, "model.xml"),
    "openvino_float16": ("openvino", "float16", "model_float16.xml"),
}


def benchmark(
    model: keras.Model,
    images: np.ndarray,
    folder: str | os.PathLike | None = None,
    formats: Sequence[str] = tuple(FORMATS),
    *,
    batch_size: int = 1,
    threads: int | None = None,
    representative_images: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    source_weights: str | None = None,
    progress: Callable[[str], Any] | None = None,
) -> Benchmark:
    """Export a model in every format and run each file beside the model.

    The judgement is that of `keras_cvt.deploy.verify`. Files are exported for the
    images' size and `batch_size`, fused, each in a process of its own. A format whose
    converter or runtime is missing is skipped; one whose converter or runtime fails
    is a failed measurement and does not stop the others.

    Args:
        model: A `CvTModel`.
        images: (N, H, W, C), such as the model takes, at least one batch.
        folder: Where the files stay, which must not be there yet; None means a
            temporary one.
        formats: Keys of `FORMATS`. The Keras model, which all are compared with, is
            always measured.
        batch_size: Images a call.
        threads: Of the runtimes; None means as many as the processor has.
            TensorFlow's count is set for the whole process, not here.
        representative_images: What `litert_int8` is calibrated on; None means
            `images`.
        labels: A name for each class, for the files' metadata; None means
            `model.labels`.
        source_weights: What the metadata says of the weights' origin.
        progress: Called with each format's name before its turn.

    Returns:
        The measurements; `str` makes a table of them, `plot` a picture.

    Raises:
        ValueError: If an argument is out of range or the Keras backend is not
            TensorFlow.
        OSError: If a file cannot be written; a FileExistsError if it is there.

    Example:
        >>> result = keras_cvt.deploy.benchmark(model, images)
        >>> print(result)
        >>> assert result.passed
    """
    for name in formats:
        validation.check_choice(tuple(FORMATS), formats=name)
    formats = [name for name in FORMATS if name == "keras" or name in formats]
    validation.check_int(1, batch_size=batch_size)
    _check_backend()
    if folder is not None:
        _check_new(Path(folder), formats)
    check_model(model)
    # Of the model as it is: any size that it takes will do.
    about = metadata.describe(
        model,
        kind_of_outputs(model),
        model.input.shape,
        model.eval_transform,
        labels,
        source_weights,
        quantization=None,
        fused=False,
    )
    images = checked(images, about["input"])
    if len(images) < batch_size:
        raise ValueError(
            f"Expected images for at least one call. Received: {len(images)} images, "
            f"batch_size={batch_size}"
        )
    # Too small an image is better answered here than by a layer.
    model.compute_output_shape((batch_size, *images.shape[1:]))
    calibration = None
    if "litert_int8" in formats:
        calibration = f"the {len(images)} compared images themselves"
        if representative_images is None:
            representative_images = images
        else:
            shape = (batch_size, *images.shape[1:])
            representative_images = check_representative(
                representative_images, "int8", shape
            )
            calibration = f"{len(representative_images)} images of its own"
    options = {
        "batch_size": batch_size,
        "image_size": list(images.shape[1:3]),
        "labels": None if labels is None else list(labels),
        "source_weights": source_weights,
    }
    expected = outputs(model, images, batch_size)
    fused = fuse(model)

    def measure(name, folder):
        format, quantization, file = FORMATS[name]
        path = folder / file
        if format is None:
            network = model if name == "keras" else fused
            write_whole(path, network.save)
            described = about
            runtime = _in_keras(network, batch_size)
        else:
            runtimes.check_installed(format)
            processes.export_elsewhere(
                folder / FORMATS["keras"][-1],
                path,
                representative_images if quantization == "int8" else None,
                format=format,
                quantization=quantization,
                **options,
            )
            described = metadata.read(path)
            runtime = runtimes.open_file(path, threads)
        seen = compare(model, expected, runtime, images, described, path)
        # A temporary folder is no place to look for a file.
        return seen if stays else dataclasses.replace(seen, path=file)

    stays = folder is not None
    with contextlib.ExitStack() as stack:
        if not stays:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        measurements = []
        for name in formats:
            if progress is not None:
                progress(name)
            try:
                measurements.append(Measurement(name, measure(name, folder)))
            except ImportError as error:
                measurements.append(Measurement(name, None, skipped=str(error)))
            except Exception as error:
                # The arguments are right, or the Keras model had not been measured.
                # A file that cannot be written is no format's fault.
                disk = isinstance(error, OSError) and not isinstance(
                    error, ChildProcessError
                )
                if name == "keras" or disk:
                    raise
                reason = f"{type(error).__name__}: {error}"
                measurements.append(Measurement(name, None, failed=reason))
    size = tuple(images.shape[1:3])
    return Benchmark(
        tuple(measurements), len(images), size, batch_size, threads, calibration
    )


def _check_backend():
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected the TensorFlow backend, which exports. Save the model as "
            "model.keras and run `KERAS_BACKEND=tensorflow keras-cvt benchmark "
            f"model.keras`. Received: backend={keras.backend.backend()!r}"
        )


def _check_new(folder, formats):
    # `model.keras` may well be the trained model itself.
    files = [FORMATS[name][-1] for name in formats]
    found = [file for file in files if (folder / file).exists()]
    if found:
        raise FileExistsError(
            f"Expected a folder without {', '.join(files)}, which are written there. "
            f"Received: folder={str(folder)!r}, which has {', '.join(found)}"
        )


def _in_keras(model, batch_size):
    return runtimes.Runtime(
        "keras", batch_size, lambda images: in_order(model.predict_on_batch(images))
    )
