"""Measure the speed, size and agreement of every format on this machine."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import tree

from keras_cvt._utils import validation
from keras_cvt._utils.files import write_whole
from keras_cvt.deploy import formats as file_formats
from keras_cvt.deploy import metadata
from keras_cvt.deploy.checks import check_backend, check_representative
from keras_cvt.deploy.file_format import Runtime
from keras_cvt.deploy.fusion import fuse
from keras_cvt.deploy.measurements import Benchmark, Measurement
from keras_cvt.deploy.precision import in_float32
from keras_cvt.deploy.subprocess_export import ExportProcess
from keras_cvt.deploy.verification import checked, compare, outputs
from keras_cvt.models import CvTModel

_VARIANTS = file_formats.variants()
# Name -> format and quantization of `export`, and the file's name.
FORMATS: dict[str, tuple[str | None, str | None, str]] = {
    "keras": (None, None, "model.keras"),
    "fused": (None, None, "fused.keras"),
} | {
    name: (v.format.name, v.quantization, v.file_name) for name, v in _VARIANTS.items()
}
_BY_DEFAULT = ("keras", "fused", *file_formats.candidates())


def benchmark(
    model: CvTModel,
    images: np.ndarray,
    folder: str | os.PathLike | None = None,
    formats: Sequence[str] | None = None,
    *,
    batch_size: int = 1,
    threads: int | None = None,
    representative_images: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    source_weights: str | None = None,
    progress: Callable[[str], Any] | None = None,
    labels: Sequence[str] | None = None,
) -> Benchmark:
    """Export a model in every format and compare each file with the model.

    A model in mixed precision is measured in float32, as it is exported.
    Each file is judged like in `keras_cvt.deploy.verify`. The files are fused, and
    exported for the size of the images and `batch_size`, in another process. A
    format whose converter or runtime is not installed is skipped. If a converter or
    runtime fails, its measurement is a failed one, and the others continue.

    Args:
        model: A `CvTModel`.
        images: (N, H, W, C) as the model takes them, at least one batch.
        folder: Where the files stay. They must not exist there yet. Defaults to
            `None`, which means a temporary folder.
        formats: Names in `FORMATS`. The Keras model is always measured, because all
            others are compared with it. Defaults to `None`, which means all names but
            those of web pages, which hold an ONNX file.
        batch_size: Number of images per call. Defaults to `1`.
        threads: Number of threads of the runtimes. TensorFlow has one number of
            threads for the whole process, which this does not change. Defaults to
            `None`, which means one thread for each processor.
        representative_images: Images for the quantizations that need them. Defaults
            to `None`, which means `images`.
        class_names: A name for each class, for the files' metadata. Defaults to
            `None`, which means `model.class_names`.
        source_weights: Where the weights come from, for the metadata. Defaults to
            `None`, which means `model.source_weights`.
        progress: A function that gets each format's name before it is measured.
            Defaults to `None`.
        labels: The name of `class_names` in version 0.1.0.

    Returns:
        The measurements. `str` makes a table of them, `plot` draws them.

    Raises:
        ValueError: If an argument is out of range or the Keras backend is not
            TensorFlow.
        OSError: If a file cannot be written. It is a FileExistsError if it exists.

    Example:
        >>> result = keras_cvt.deploy.benchmark(model, images)
        >>> print(result)
        >>> assert result.passed
    """
    names = _names(_BY_DEFAULT if formats is None else formats)
    validation.check_int(1, batch_size=batch_size)
    check_backend("benchmark model.keras")
    if folder is not None:
        _check_new(Path(folder), names)
    class_names = labels if class_names is None else class_names
    description = metadata.describe(model, class_names, source_weights)
    model = in_float32(model)
    about = metadata.assemble(description, None, None, fused=False)
    images = checked(images, about["input"])
    if len(images) < batch_size:
        raise ValueError(
            f"Expected images for at least one call. Received: {len(images)} images, "
            f"batch_size={batch_size}"
        )
    # A clear error for images that are too small, before any export.
    model.compute_output_shape((batch_size, *images.shape[1:]))
    calibrated_on, calibration = _calibration(
        names, images, representative_images, batch_size
    )
    expected = outputs(model, images, batch_size)
    networks = {"keras": model, "fused": fuse(model)}
    height, width = images.shape[1:3]
    options = {
        "batch_size": batch_size,
        "image_size": (height, width),
        "class_names": description.class_names,
        "source_weights": description.source_weights,
    }

    def measure(name, path):
        if name in networks:
            network, described = networks[name], about
            write_whole(path, network.save)
            size = path.stat().st_size

            def call(batch):
                return tree.flatten(network.predict_on_batch(batch))

            runtime = Runtime("keras", batch_size, call)
        else:
            variant, source = _VARIANTS[name], path.with_name(FORMATS["keras"][-1])
            variant.format.import_runtime()
            needed = calibrated_on if variant.needs_images else None
            exporter.export(
                source, path, format=name, representative_images=needed, **options
            )
            runtime = file_formats.open_file(path, threads)
            described, size = metadata.read(path), variant.format.size(path)
        seen = compare(model, expected, images, path, runtime, described, size)
        # A temporary folder will not exist any more.
        return dataclasses.replace(seen, path=path.name) if folder is None else seen

    measurements = []
    with contextlib.ExitStack() as stack:
        if folder is None:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        exporter = stack.enter_context(ExportProcess())
        for name in names:
            if progress is not None:
                progress(name)
            measurements.append(_attempt(measure, name, place / FORMATS[name][-1]))
    facts = (len(images), (height, width), batch_size, threads, calibration)
    return Benchmark(tuple(measurements), *facts)


def _names(formats):
    """Return names of `FORMATS` in its order, without aliases."""
    names = [file_formats.resolve(name) for name in formats]
    for name in names:
        validation.check_choice(tuple(FORMATS), formats=name)
    return [name for name in FORMATS if name == "keras" or name in names]


def _calibration(names, images, representative_images, batch_size):
    """Return the images to calibrate on and what they are, or None for both."""
    calibrated = [v for n, v in _VARIANTS.items() if n in names and v.needs_images]
    if not calibrated:
        return None, None
    if representative_images is None:
        return images, f"the {len(images)} compared images themselves"
    shape = (batch_size, *images.shape[1:])
    found = check_representative(representative_images, calibrated[0], shape)
    return found, f"{len(found)} images of its own"


def _attempt(measure, name, path):
    try:
        return Measurement(name, measure(name, path))
    except ImportError as error:
        return Measurement(name, None, skipped=str(error))
    except Exception as error:
        # If the Keras model fails, the arguments are wrong. If a file cannot be
        # written, this is not the fault of its format.
        disk = isinstance(error, OSError) and not isinstance(error, ChildProcessError)
        if name == "keras" or disk:
            raise
        return Measurement(name, None, failed=f"{type(error).__name__}: {error}")


def _check_new(folder, names):
    # An existing `model.keras` may be the trained model itself.
    files = [FORMATS[name][-1] for name in names]
    found = [file for file in files if (folder / file).exists()]
    if found:
        raise FileExistsError(
            f"Expected a folder without {', '.join(files)}, which are written there. "
            f"Received: folder={str(folder)!r}, which has {', '.join(found)}"
        )
