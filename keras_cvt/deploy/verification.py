"""Compare the outputs and the speed of an exported file with its model's."""

import dataclasses
import functools
import os
import statistics
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt._utils.tables import render
from keras_cvt.deploy import formats, metadata
from keras_cvt.deploy.file_format import Runtime, has_shape
from keras_cvt.deploy.precision import in_float32
from keras_cvt.description import answers_of

# Of all images' outputs with the model's. Those of another network have less.
SMALLEST_COSINE = 0.95
# For each quantization: largest difference of a logit, smallest share of the same
# answers, smallest cosine of all images' outputs as one vector, and largest relative
# error of plain numbers and of scores that decide nothing. The smallest cosine of an
# image would fail a file for a single borderline image.
_TOLERANCES = {
    None: (1e-4, 1.0, None, None),
    "float16": (1e-2, 1.0, None, None),
    "bfloat16": (None, 0.995, SMALLEST_COSINE, 0.1),
    "dynamic_int8": (None, 0.995, SMALLEST_COSINE, 0.1),
    "int8": (None, 0.99, SMALLEST_COSINE, 0.15),
}
# Smaller probabilities in float32 do not determine their logits.
_SMALLEST = 1e-30
# Nor do those of a sigmoid that are closer to 0 or 1 than this logit.
_LARGEST_LOGIT = 6.0
# Numbers that differ by less are equal, whatever their size.
_ABSOLUTE = 1e-6
# Below this overall cosine, a file is rather of other weights than badly quantized.
_OTHER_WEIGHTS = 0.5
# With fewer, one other answer is more than a percent.
_FEW_IMAGES = 100
# A file's and the model's calls are timed for at least so long.
_LEAST_SECONDS = 0.5


@dataclass(frozen=True)
class Verification:
    """How an exported file compares with its model.

    Attributes:
        path: The file or folder.
        format: Name of its format.
        quantization: Its quantization, or None.
        images: Number of images that were compared.
        max_difference: Largest difference of an output. Probabilities of a softmax are
            compared by their centred logarithms, which are the logits except for a
            constant. Those of a sigmoid are compared by their logits, up to 6 on
            either side.
        mean_difference: Mean difference of an output.
        cosine: Smallest cosine of an image's outputs with the model's. Outputs of
            more than one class are centred first.
        overall_cosine: Cosine of all images' outputs as one vector.
        top1_agreement: Share of images with the same best class; None if the outputs
            do not stand for one class of several.
        top5_agreement: Share of images for which the model's best class is among the
            file's best five; None as before, and for at most five classes.
        size_bytes: Size of the file, or of all files in the folder.
        images_per_second: Speed of the file in its runtime.
        model_images_per_second: Speed of the model with `predict_on_batch`.
        batch_size: Number of images per call for both speeds.
        tolerance: The expected agreement in words.
        passed: Whether the file agrees that well.
        threshold_agreement: Share of the outputs of a sigmoid, or of one logit, on the
            same side of a probability of 0.5; None for other outputs.
        relative_error: Largest relative error of plain numbers: of a regression's
            output over all images, or of a feature map of one image. None for other
            outputs.
        decided: Number of images whose best class the model itself tells from the
            second by more than the format may change, or of a sigmoid's outputs that
            are as far from 0.5; see `verify`. None for plain numbers.
        decided_agreement: Share of those with the same answer; None if there are none.
        advice: What to do, in words, if the file failed; None if it passed.
    """

    path: str
    format: str
    quantization: str | None
    images: int
    max_difference: float
    mean_difference: float
    cosine: float
    overall_cosine: float
    top1_agreement: float | None
    top5_agreement: float | None
    size_bytes: int
    images_per_second: float
    model_images_per_second: float
    batch_size: int
    tolerance: str
    passed: bool
    threshold_agreement: float | None = None
    relative_error: float | None = None
    decided: int | None = None
    decided_agreement: float | None = None
    advice: str | None = None

    @property
    def agreement(self) -> float | None:
        """Share of the same answers: classes or decisions; None for plain numbers."""
        if self.top1_agreement is not None:
            return self.top1_agreement
        return self.threshold_agreement

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return a table, and below it the advice."""
        rows = {
            "largest difference": f"{self.max_difference:.2e}",
            "mean difference": f"{self.mean_difference:.2e}",
            "cosine, smallest": f"{self.cosine:.6f}",
            "cosine, overall": f"{self.overall_cosine:.6f}",
        }
        if self.top1_agreement is not None:
            rows["top-1 agreement"] = f"{self.top1_agreement:.2%}"
        if self.top5_agreement is not None:
            rows["top-5 agreement"] = f"{self.top5_agreement:.2%}"
        if self.threshold_agreement is not None:
            rows["same side of 0.5"] = f"{self.threshold_agreement:.2%}"
        if self.decided_agreement not in (None, self.agreement):
            rows[f"of {self.decided:,} decided"] = f"{self.decided_agreement:.2%}"
        if self.relative_error is not None:
            rows["relative error"] = f"{self.relative_error:.2e}"
        rows |= {
            "size": f"{self.size_bytes / 2**20:.2f} MiB",
            "images/s": f"{self.images_per_second:.1f}, batch {self.batch_size}",
            "model's images/s": f"{self.model_images_per_second:.1f}",
            "expected": self.tolerance,
            "verdict": "passed" if self.passed else "FAILED",
        }
        title = [Path(self.path).name, f"{self.images} images"]
        table = render(title, rows.items())
        if self.advice is None:
            return table
        return f"{table}\n\n{textwrap.fill(self.advice, 88, break_on_hyphens=False)}"


def verify(
    model: keras.Model,
    path: str | os.PathLike,
    images: np.ndarray,
    threads: int | None = None,
) -> Verification:
    """Run an exported file in its own runtime and compare it with its model.

    A file passes if it agrees with the model this well:

    - float32: every logit within 1e-4, and every best class.
    - `"float16"`: every logit within 1e-2, and every best class.
    - `"dynamic_int8"`, `"bfloat16"`: 99.5 % of the best classes, and an overall cosine
      of 0.95.
    - `"int8"`: 99 % of the best classes, and an overall cosine of 0.95.

    A best class counts only where the model is decided. If each logit may change by
    `d`, two of them can change places whose difference is at most `2 * d`: between
    those, the class says nothing about the file. `d` is the limit above for float32 and
    `"float16"`. It is 10 % (`"dynamic_int8"`, `"bfloat16"`) or 15 % (`"int8"`) of the
    root mean square of the model's own centred logits over all images. Where the model
    is undecided, as one with fresh weights is on every image, the scores are judged
    instead: the root mean square of their differences must be at most `d`.

    For a sigmoid, or one logit, the share is that of the outputs on the same side of a
    probability of 0.5, and counts where the logit is further than `d` from 0.
    Regression and features are judged by their error: at most 1e-4
    (float32) or 1e-2 (`"float16"`) of an output's largest value, and a relative error
    of 10 % (`"dynamic_int8"`, `"bfloat16"`) or 15 % (`"int8"`).

    Args:
        model: The model that was exported, fused or not. One in mixed precision is
            compared in float32, as it is exported.
        path: What `keras_cvt.deploy.export` wrote.
        images: (N, H, W, C) as the model takes them: of the file's size, and pixels
            of 0-255 unless the model takes others (`model.description.value_range`).
        threads: Number of threads of the runtime. Defaults to `None`, which means one
            for each processor.

    Returns:
        The comparison. `passed` is its verdict, and `advice` says what to do about a
        file that failed, which is not an error.

    Raises:
        ValueError: If the images do not fit, or if the path is not an exported file.
        ImportError: If the runtime is missing. The message names the extra.

    Example:
        >>> result = keras_cvt.deploy.verify(model, "cvt13.tflite", images)
        >>> print(result)
        >>> assert result.passed
    """
    described = metadata.read(path)
    model = in_float32(model)
    images = checked(images, described["input"])
    runtime = formats.open_file(path, threads)
    expected = outputs(model, images, runtime.images_per_call(images))
    size_bytes = formats.of_path(path).size(Path(path))
    return compare(model, expected, images, path, runtime, described, size_bytes)


def compare(
    model: keras.Model,
    expected: list[np.ndarray],
    images: np.ndarray,
    path: str | os.PathLike,
    runtime: Runtime,
    described: dict[str, Any],
    size_bytes: int,
) -> Verification:
    """Compare what a runtime computes with what its model computed.

    Args:
        model: The model, for its speed.
        expected: The model's outputs for the images, from `outputs`.
        images: The images, from `checked`.
        path: The file.
        runtime: The opened file.
        described: The file's metadata.
        size_bytes: The file's size.

    Raises:
        ValueError: If the runtime's outputs have another shape.
    """
    found = runtime.run(images)
    if [a.shape for a in expected] != [b.shape for b in found]:
        raise ValueError(
            f"Expected outputs of shape {[a.shape for a in expected]}, as the model's. "
            f"Received: {[b.shape for b in found]} from {path}"
        )
    batch = images[: runtime.images_per_call(images)]
    size = len(batch)
    return Verification(
        path=str(path),
        format=runtime.format,
        images=len(images),
        size_bytes=size_bytes,
        images_per_second=size / _seconds(lambda: runtime.run(batch)),
        model_images_per_second=size / _seconds(lambda: model.predict_on_batch(batch)),
        batch_size=size,
        **_judge(expected, found, described),
    )


def outputs(
    model: keras.Model, images: np.ndarray, batch_size: int
) -> list[np.ndarray]:
    """Return a model's outputs, sorted by name like those of a `Runtime`."""
    found = model.predict(images, batch_size=batch_size, verbose=0)
    return keras.tree.flatten(found)


def checked(images: np.ndarray, described: dict[str, Any]) -> np.ndarray:
    """Return images as float32.

    Args:
        images: (N, H, W, C).
        described: The file's input, from its metadata.

    Raises:
        ValueError: If the images do not fit.
    """
    images = np.asarray(images, "float32")
    size = (*described["image_size"], described["channels"])
    if not has_shape(images, size) or not len(images):
        raise ValueError(
            f"Expected at least one image, (N, H, W, C), where (H, W, C) is {size} "
            f"(None: any size). Received: shape={images.shape}"
        )
    low, high = float(images.min()), float(images.max())
    if described["range"] and (low < 0 or high > 255 or high <= 1):
        raise ValueError(
            "Expected pixels of 0-255, because the model normalises them itself. "
            f"Received: values from {low:.3g} to {high:.3g}"
        )
    return images


def _judge(expected, found, described):
    kind, quantization = described["outputs"], described["quantization"]
    limit, share, smallest, largest = _TOLERANCES[quantization]
    activation = described.get("activation")
    answers = answers_of(kind, activation, expected[0].shape[-1])
    result = {"quantization": quantization}
    # Every comparison is false for NaN.
    checks = {}
    if answers == "values":
        errors = map(functools.partial(_relative_error, kind), expected, found)
        # Not Python's `max`, which may drop a NaN.
        result["relative_error"] = error = float(np.max(list(errors)))
        if largest is not None:
            checks[f"relative error <= {largest:.0%}"] = error <= largest
        if limit is not None:
            pairs = zip(expected, found, strict=True)
            close = [_close(kind, limit, *pair) for pair in pairs]
            checks[f"difference <= {limit:.0e} of an output's size"] = all(close)
    probabilities = kind == "probabilities"
    expected = _rows(expected, answers if probabilities else None)
    found = _rows(found, answers if probabilities else None)
    difference = np.abs(expected - found)
    result["top1_agreement"] = result["top5_agreement"] = None
    vectors = expected, found
    if answers == "class":
        best = expected.argmax(-1)
        same = found.argmax(-1) == best
        result["top1_agreement"] = float(same.mean())
        if expected.shape[-1] > 5:
            five = np.argsort(-found, axis=-1)[:, :5] == best[:, None]
            result["top5_agreement"] = float(np.mean(five.any(axis=-1)))
        # What all classes of an image share does not matter and would hide the rest.
        vectors = _centred(expected), _centred(found)
        first, second = np.sort(expected, axis=-1)[:, :-3:-1].T
        # Both may change, towards each other.
        margins, name = (first - second) / 2, "top-1 agreement"
    if answers == "decisions":
        same = (expected > 0) == (found > 0)
        if limit is not None:
            same |= difference <= limit  # as close to 0.5 as rounding
        result["threshold_agreement"] = float(same.mean())
        margins, name = np.abs(expected), "same side of 0.5"
    cosine = float(np.min(_cosines(*vectors)))
    overall = float(_cosines(*(array.reshape(1, -1) for array in vectors))[0])
    if answers != "values":
        allowed = limit if largest is None else largest * _root_mean_square(vectors[0])
        decided = margins > allowed
        result["decided"] = int(decided.sum())
        if decided.any():
            result["decided_agreement"] = agreement = float(same[decided].mean())
            of = "" if decided.all() else f" of {result['decided']} that are decided"
            checks[f"{name} >= {share:.1%}{of}"] = agreement >= share
        if largest is not None and not decided.all():
            error = _root_mean_square((vectors[0] - vectors[1])[~decided])
            rule = f"error of undecided scores <= {largest:.0%} of all scores' size"
            checks[rule] = error <= allowed
        if smallest is not None:
            checks[f"overall cosine >= {smallest}"] = overall >= smallest
        if limit is not None:
            checks[f"difference <= {limit:.1e}"] = bool(difference.max() <= limit)
    result |= {
        "max_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "cosine": cosine,
        "overall_cosine": overall,
        "tolerance": ", ".join(checks),
        "passed": all(checks.values()),
    }
    if not result["passed"]:
        result["advice"] = _advise(result, len(found), np.isfinite(expected).all())
    return result


def _advise(result, images, model_is_finite):
    """Return what to do about a file that failed, in words."""
    quantization, overall = result["quantization"], result["overall_cosine"]
    if not model_is_finite:
        return "The model's own outputs hold NaN or infinity: look at its weights."
    if not np.isfinite(result["max_difference"]):
        return (
            "The file's outputs hold NaN or infinity."
            if quantization is None
            else "The file's outputs hold NaN or infinity: its numbers are too small "
            "for what the network computes. Export it without a quantization."
        )
    if overall < _OTHER_WEIGHTS:
        text = (
            "The outputs have little in common: is this file of this model, with these "
            "weights? Export it again."
        )
    elif quantization in (None, "float16"):
        text = (
            f"The outputs differ by up to {result['max_difference']:.1e}. If that is "
            "small beside them, it is rounding; otherwise the model has changed since "
            "the export: export it again."
        )
    elif overall >= SMALLEST_COSINE:
        text = (
            f"The scores are close (overall cosine {overall:.4f}), but not close "
            "enough for the same answers."
        )
        if images < _FEW_IMAGES:
            text += f" Compare on more images: {images} are few."
    else:
        text = f"The scores differ (overall cosine {overall:.4f})."
    if quantization == "int8":
        text += (
            " Calibrate on more representative images, a few hundred like those that "
            "the file will see, or try `dynamic_int8`, which needs none."
        )
    elif quantization is not None:
        text += " Try a quantization that keeps more, or none."
    return text


def _root_mean_square(values):
    return float(np.sqrt(np.mean(values**2)))


def _relative_error(kind, expected, found):
    """Return the largest relative error of a regression's outputs, or of an image."""
    axis = 0 if kind == "regression" else tuple(range(1, expected.ndim))
    expected, found = expected.astype("float64"), found.astype("float64")
    error = np.sqrt(np.sum((expected - found) ** 2, axis=axis))
    size = np.sqrt(np.sum(expected**2, axis=axis))
    return float(np.max(error / np.maximum(size, _ABSOLUTE)))


def _close(kind, limit, expected, found):
    """Return whether numbers agree, relative to the largest of their output.

    Each output of a regression has its own size. Features are of one size.
    """
    size = np.abs(expected).max(axis=0 if kind == "regression" else None)
    return bool(np.all(np.abs(expected - found) <= _ABSOLUTE + limit * size))


def _centred(rows):
    # The only value of a row would become 0.
    return rows - rows.mean(-1, keepdims=True) if rows.shape[-1] > 1 else rows


def _cosines(expected, found):
    """Return the cosine of each row. Two rows of zeros have a cosine of 1."""
    products = np.sum(expected * found, axis=1)
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    both_zero = ~(expected.any(axis=1) | found.any(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(both_zero, 1.0, products / norms)


def _rows(arrays, answers=None):
    """Return a matrix (N, features) with all outputs of an image in one row.

    Probabilities become logits by what they answer.
    """
    rows = [array.reshape(len(array), -1).astype("float64") for array in arrays]
    if answers == "class":
        rows = [_centred(np.log(np.maximum(row, _SMALLEST))) for row in rows]
    if answers == "decisions":
        smallest = 1 / (1 + np.exp(_LARGEST_LOGIT))
        rows = [np.clip(row, smallest, 1 - smallest) for row in rows]
        rows = [np.log(row) - np.log1p(-row) for row in rows]
    return np.concatenate(rows, axis=1)


def _seconds(run: Callable[[], Any]) -> float:
    """Return the median time of at least three calls, or of one that takes long."""
    run()
    times: list[float] = []
    total = 0.0
    least = _LEAST_SECONDS
    while total < least or (len(times) < 3 and total < 10 * least):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        total += times[-1]
    return statistics.median(times)
