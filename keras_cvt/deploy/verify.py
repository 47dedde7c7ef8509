"""Does an exported file compute what the model computes, and how fast?"""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt.deploy import metadata, runtimes
from keras_cvt.tables import render

# Largest difference of a logit, smallest share of equal top-1, smallest cosine of all
# images' outputs as one vector: a single undecided image may turn round.
_TOLERANCES = {
    None: (1e-4, 1.0, None),
    "float16": (1e-2, 1.0, None),
    "dynamic_int8": (None, 0.995, 0.95),
    "int8": (None, 0.99, 0.95),
}
# Probabilities below this say nothing of their logits in float32.
_SMALLEST = 1e-30


@dataclass(frozen=True)
class Verification:
    """How an exported file compares with its model.

    Attributes:
        path: The file or folder.
        format: As `keras_cvt.deploy.export` calls it.
        quantization: As `keras_cvt.deploy.export` calls it.
        images: How many were compared.
        max_difference: Largest difference of an output. Probabilities are compared
            by their logarithms, centred: that is by logits, but for a constant.
        mean_difference: Mean difference of an output.
        cosine: Smallest cosine of an image's outputs with the model's, of more than
            one class centred.
        overall_cosine: The same of all images' outputs as one vector.
        top1_agreement: Share of images with the same best class; None without
            classes.
        top5_agreement: Share of images whose best class of the model is among the
            file's best five; None without classes.
        size_bytes: Of the file, or of all files in the folder.
        images_per_second: Of the file in its runtime.
        model_images_per_second: Of the model, `predict_on_batch`.
        batch_size: Images a call, for both speeds.
        tolerance: What was asked for, in words.
        passed: Whether it was met.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return a table for people."""
        rows = [
            ["largest difference", f"{self.max_difference:.2e}"],
            ["mean difference", f"{self.mean_difference:.2e}"],
            ["cosine, smallest", f"{self.cosine:.6f}"],
            ["cosine, overall", f"{self.overall_cosine:.6f}"],
        ]
        if self.top1_agreement is not None:
            rows += [
                ["top-1 agreement", f"{self.top1_agreement:.2%}"],
                ["top-5 agreement", f"{self.top5_agreement:.2%}"],
            ]
        rows += [
            ["size", f"{self.size_bytes / 2**20:.2f} MiB"],
            ["images/s", f"{self.images_per_second:.1f}, batch {self.batch_size}"],
            ["model's images/s", f"{self.model_images_per_second:.1f}"],
            ["asked for", self.tolerance],
            ["verdict", "passed" if self.passed else "FAILED"],
        ]
        return render([Path(self.path).name, f"{self.images} images"], rows)


def verify(
    model: keras.Model,
    path: str | os.PathLike,
    images: np.ndarray,
    threads: int | None = None,
) -> Verification:
    """Run an exported file in its own runtime and compare it with its model.

    Float32 files must be within 1e-4 of every logit, float16 within 1e-2 and both
    agree on every best class; `"dynamic_int8"` must agree on 99.5 % and `"int8"` on
    99 % of them, with an overall cosine of at least 0.95, and without classes reach
    those shares as a cosine of every image.

    Args:
        model: The model that the file was made of, fused or not.
        path: What `keras_cvt.deploy.export` wrote.
        images: (N, H, W, C), such as the model takes: of its own size, and pixels of
            0-255 unless it was built with `include_preprocessing=False`.
        threads: Of the runtime; None means as many as the processor has.

    Returns:
        The comparison; `passed` is its verdict. A failure raises nothing; `keras-cvt
        verify` ends with exit status 1 then.

    Raises:
        ValueError: If the images do not fit, or the path holds no exported file.
        ImportError: If the runtime is missing; the message names the extra.

    Example:
        >>> result = keras_cvt.deploy.verify(model, "cvt13.tflite", images)
        >>> print(result)
        >>> assert result.passed
    """
    described = metadata.read(path)
    images = checked(images, described["input"])
    runtime = runtimes.open_file(path, threads)
    expected = outputs(model, images, min(runtime.images_a_call(images), len(images)))
    return compare(model, expected, runtime, images, described, path)


def compare(
    model: keras.Model,
    expected: list[np.ndarray],
    runtime: runtimes.Runtime,
    images: np.ndarray,
    described: dict[str, Any],
    path: str | os.PathLike,
) -> Verification:
    """Compare what a runtime computes with what its model computed.

    Args:
        model: The model, for its speed.
        expected: Its `outputs` for the images.
        runtime: An opened file.
        images: What `checked` returned.
        described: The file's metadata.
        path: The file.

    Raises:
        ValueError: If the runtime's outputs are of another shape.
    """
    found = runtime.run(images)
    if [a.shape for a in expected] != [b.shape for b in found]:
        raise ValueError(
            f"Expected outputs of shape {[a.shape for a in expected]}, as the model's. "
            f"Received: {[b.shape for b in found]} from {path}"
        )
    size = min(runtime.images_a_call(images), len(images))
    batch = images[:size]
    return _judge(
        expected,
        found,
        described,
        path=str(path),
        format=runtime.format,
        quantization=described["quantization"],
        images=len(images),
        size_bytes=_size(Path(path)),
        images_per_second=size / _seconds(lambda: runtime.run(batch)),
        model_images_per_second=size / _seconds(lambda: model.predict_on_batch(batch)),
        batch_size=size,
    )


def outputs(
    model: keras.Model, images: np.ndarray, batch_size: int
) -> list[np.ndarray]:
    """Return a model's outputs, sorted by name as an opened file's are."""
    return in_order(model.predict(images, batch_size=batch_size, verbose=0))


def checked(images: np.ndarray, described: dict[str, Any]) -> np.ndarray:
    """Return images as float32.

    Args:
        images: (N, H, W, C).
        described: What a file's metadata says of its input.

    Raises:
        ValueError: If they do not fit it.
    """
    images = np.asarray(images, "float32")
    size = (*described["image_size"], described["channels"])
    fits = images.ndim == 4 and all(
        wanted in (None, found)
        for wanted, found in zip(size, images.shape[1:], strict=True)
    )
    if not fits or not len(images):
        raise ValueError(
            f"Expected at least one image, (N, H, W, C) with {size} for the last three "
            f"(None: any). Received: shape={images.shape}"
        )
    low, high = float(images.min()), float(images.max())
    if described["range"] and (low < 0 or high > 255 or high <= 1):
        raise ValueError(
            "Expected pixels of 0-255, as the model normalises them itself. "
            f"Received: values from {low:.3g} to {high:.3g}"
        )
    return images


def in_order(outputs: Any) -> list[np.ndarray]:
    """Return a Keras model's outputs as a list, sorted by name if they have any."""
    if isinstance(outputs, dict):
        return [outputs[name] for name in sorted(outputs)]
    return outputs if isinstance(outputs, list) else [outputs]


def _judge(expected, found, described, quantization, **facts):
    top1 = top5 = None
    if described["outputs"] != "features":
        best = expected[0].argmax(-1)
        top1 = float(np.mean(found[0].argmax(-1) == best))
        five = np.argsort(-found[0], axis=-1)[:, :5]
        top5 = float(np.mean(np.any(five == best[:, None], axis=-1)))
    if described["outputs"] == "probabilities":
        expected, found = (
            [_centred_logarithms(array) for array in arrays]
            for arrays in (expected, found)
        )
    expected, found = _rows(expected), _rows(found)
    difference = np.abs(expected - found)
    vectors = expected, found
    if top1 is not None:
        # What is common to an image's classes says nothing and would hide the rest.
        vectors = _centred(expected), _centred(found)
    cosine = float(np.min(_cosines(*vectors)))
    overall = float(_cosines(*(array.reshape(1, -1) for array in vectors))[0])
    limit, share, smallest = _TOLERANCES[quantization]
    # Written so that NaN fails.
    if top1 is not None:
        asked = [(f"top-1 agreement >= {share:.1%}", top1 >= share)]
    else:
        asked, smallest = [], None if smallest is None else share
    if smallest is not None:
        words = "cosine" if top1 is None else "overall cosine"
        reached = cosine if top1 is None else overall
        asked.append((f"{words} >= {smallest}", reached >= smallest))
    if limit is not None:
        # Maps before the last norm may hold large values.
        limit *= max(1.0, float(np.abs(expected).max())) if top1 is None else 1.0
        asked.append((f"difference <= {limit:.1e}", difference.max() <= limit))
    return Verification(
        quantization=quantization,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        cosine=cosine,
        overall_cosine=overall,
        top1_agreement=top1,
        top5_agreement=top5,
        tolerance=", ".join(words for words, _ in asked),
        passed=all(bool(met) for _, met in asked),
        **facts,
    )


def _centred_logarithms(probabilities):
    return _centred(np.log(np.maximum(probabilities, _SMALLEST)))


def _centred(rows):
    # Of one class nothing would be left.
    return rows - rows.mean(-1, keepdims=True) if rows.shape[-1] > 1 else rows


def _cosines(expected, found):
    """Return each row's cosine; two rows of zeros point the same way."""
    products = np.sum(expected * found, axis=1)
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    both_zero = ~(expected.any(axis=1) | found.any(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(both_zero, 1.0, products / norms)


def _rows(arrays):
    """Put an image's outputs into one row of a matrix (N, features)."""
    rows = [array.reshape(len(array), -1) for array in arrays]
    return np.concatenate(rows, axis=1).astype("float64")


def _size(path):
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(file.stat().st_size for file in files)


def _seconds(run: Callable[[], Any], at_least: float = 0.5) -> float:
    """Return the median time of a call: of three, or of one that takes long."""
    run()
    times, total = [], 0.0
    while total < at_least or (len(times) < 3 and total < 10 * at_least):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        total += times[-1]
    return statistics.median(times)
