"""Export every candidate, measure each on this machine, and keep the fastest."""

import os
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cvt._utils import validation
from keras_cvt._utils.files import staged, temporary_folder
from keras_cvt._utils.tables import render
from keras_cvt.deploy import formats, metadata
from keras_cvt.deploy.benchmarking import benchmark
from keras_cvt.deploy.checks import ExportError, check_backend, check_path
from keras_cvt.deploy.measurements import Benchmark, Measurement
from keras_cvt.deploy.verification import SMALLEST_COSINE, Verification
from keras_cvt.models import CvTModel

# What `format` is called that stands for whichever is the fastest.
FASTEST = "fastest"
# Percent of the answers that may differ, unless the caller says otherwise.
_MAX_DROP = 0.1
# In a round, each file is timed once. Those of large networks take long.
_MIN_ROUNDS, _MAX_ROUNDS, _MAX_SECONDS = 3, 30, 20


@dataclass(eq=False, repr=False)
class Fastest(dict[str, Any]):
    """The metadata of the fastest file, and how it was chosen. `str` makes a table.

    Attributes:
        path: The file or folder.
        chosen: Its name as `keras_cvt.deploy.export` takes it.
        passed: Whether it keeps the limit. If no candidate does, it is the fastest
            float32 file.
        max_drop: The limit in percent.
        milliseconds: Median time per image of each file that ran.
        benchmark: How each candidate compares with the model, which comes first.
    """

    path: Path
    chosen: str
    passed: bool
    max_drop: float
    milliseconds: Mapping[str, float]
    benchmark: Benchmark

    def __post_init__(self):
        self.update(metadata.read(self.path))

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as a dict for JSON."""
        seen = self.benchmark
        return {
            "path": str(self.path),
            "chosen": self.chosen,
            "passed": self.passed,
            "max_drop": self.max_drop,
            "images": seen.images,
            "image_size": list(seen.image_size),
            "batch_size": seen.batch_size,
            "threads": seen.threads,
            "calibration": seen.calibration,
            "candidates": [self._candidate(row) for row in seen.measurements[1:]],
        }

    def _candidate(self, measurement: Measurement) -> dict[str, Any]:
        name, seen = measurement.name, measurement.verification
        reason = measurement.skipped or measurement.failed
        verdict = "skipped" if measurement.skipped else "FAILED"
        if seen is not None:
            verdict = "slower" if keeps(seen, self.max_drop) else "over the limit"
        return {
            "name": name,
            "size_bytes": seen and seen.size_bytes,
            "milliseconds": self.milliseconds.get(name),
            "drop": seen and drop(seen),
            "cosine": seen and seen.overall_cosine,
            "verdict": "chosen" if name == self.chosen else verdict,
            # In one line, also if a converter gave pages.
            "reason": reason and " ".join(reason.split())[:300],
        }

    def __str__(self) -> str:
        """Return a table with the choice and its reason below it."""
        facts, first = self.to_dict(), self.benchmark.measurements[0].verification
        classifies = first is not None and first.agreement is not None
        what = "other answers" if classifies else "relative error"
        titles = ["candidate", "MiB", "ms/image", f"{what} %", "cosine", "verdict"]
        rows = [
            [
                row["name"],
                row["size_bytes"] and row["size_bytes"] / 2**20,
                row["milliseconds"],
                None if row["drop"] is None else f"{row['drop']:.3g}",
                None if row["cosine"] is None else f"{row['cosine']:.6f}",
                row["verdict"],
            ]
            for row in facts["candidates"]
        ]
        why = f"the fastest with at most {self.max_drop:g} % {what}"
        if not self.passed:
            why = f"the fastest in float32: none has at most {self.max_drop:g} % {what}"
        height, width = facts["image_size"]
        count, threads = facts["images"], facts["threads"] or "all"
        lines = [
            render(titles, rows),
            "",
            f"Kept {self.chosen} as {self.path}, {why}.",
            f"{count} images of {height} x {width}, {facts['batch_size']} per call, "
            f"{threads} threads. All is compared with the Keras model's outputs.",
        ]
        if classifies and self.max_drop < 100 / count:
            lines.append(f"{count} images show no drop below {100 / count:.2g} %.")
        if facts["calibration"]:
            lines.append(f"int8 was calibrated on {facts['calibration']}.")
        for row in facts["candidates"]:
            if row["reason"]:
                lines.append(f"{row['name']} {row['verdict']}: {row['reason']}")
        return "\n".join(lines)


def export_fastest(
    model: CvTModel,
    path: str | os.PathLike,
    images: np.ndarray | None,
    *,
    max_drop: float | None = None,
    batch_size: Any = None,
    **options: Any,
) -> Fastest:
    """Write the fastest file; see `keras_cvt.deploy.export`, format `"fastest"`.

    Args:
        model: See `keras_cvt.deploy.export`.
        path: See `keras_cvt.deploy.export`.
        images: See `keras_cvt.deploy.export`.
        max_drop: See `keras_cvt.deploy.export`. Defaults to `None`.
        batch_size: Number of images per call. Defaults to `None`, which means 1.
        **options: Other arguments of `keras_cvt.deploy.benchmark`.

    Raises:
        ValueError: If an argument is out of range, there are no images, or the Keras
            backend is not TensorFlow.
        ImportError: If packages are missing for every candidate. The message names
            the extras.
        ExportError: If every candidate fails.
        OSError: If a file cannot be written.
    """
    path = Path(path)
    check_backend(f"export model.keras {path} --fastest")
    max_drop = _MAX_DROP if max_drop is None else max_drop
    validation.check_non_negative(max_drop=max_drop)
    batch_size = 1 if batch_size is None else batch_size
    if images is None:
        raise ValueError(
            "Expected `images` (N, H, W, C) as the model takes them: the candidates "
            "are measured and compared on them. Received: images=None"
        )
    variants = formats.candidates()
    own = {n: v for n, v in variants.items() if path.suffix == v.format.suffix != ""}
    variants = own or variants
    targets = {
        name: path if own else path.with_name(path.name + (v.format.suffix or ""))
        for name, v in variants.items()
    }
    for name, target in targets.items():
        check_path(target, variants[name])
    with temporary_folder(path.parent) as folder:
        result = benchmark(
            model, images, folder, list(variants), batch_size=batch_size, **options
        )
        rows = result.measurements[1:]
        seen = {row.name: row.verification for row in rows if row.verification}
        within = [name for name in seen if keeps(seen[name], max_drop)]
        floats = [n for n in seen if seen[n].quantization is None]
        # Not files that compute no numbers at all.
        choice = within or [n for n in floats if np.isfinite(seen[n].max_difference)]
        if not choice:
            error = ImportError if all(row.skipped for row in rows) else ExportError
            reasons = [f" {r.name}: {r.skipped or r.failed or 'NaN'}" for r in rows]
            raise error("No candidate runs here. " + " ".join("".join(reasons).split()))
        milliseconds = {n: 1000 / v.images_per_second for n, v in seen.items()}
        files = {name: folder / variants[name].file_name for name in choice}
        batch = np.asarray(images[:batch_size], "float32")
        milliseconds |= _take_turns(files, batch, result.threads)
        chosen = min(files, key=milliseconds.__getitem__)
        with staged(targets[chosen]) as written:
            if files[chosen].is_dir():
                shutil.copytree(files[chosen], written)
            else:
                for file in variants[chosen].format.files(files[chosen]):
                    shutil.copyfile(file, written.with_suffix(file.suffix))
    facts = bool(within), max_drop, milliseconds, result
    return Fastest(targets[chosen], chosen, *facts)


def drop(seen: Verification) -> float:
    """Return the percent of other answers, or the relative error of plain numbers."""
    share = seen.relative_error if seen.agreement is None else 1 - seen.agreement
    assert share is not None  # one of them is always known
    return round(100 * share, 9)  # 1 - 0.999 is more than 0.001


def keeps(seen: Verification, max_drop: float) -> bool:
    """Return whether a file's answers are the model's, but for `max_drop` percent."""
    close = seen.agreement is None or seen.overall_cosine >= SMALLEST_COSINE
    return close and drop(seen) <= max_drop


def _take_turns(
    files: Mapping[str, Path], batch: np.ndarray, threads: int | None
) -> dict[str, float]:
    """Return the median milliseconds per image of files that are timed in turns."""
    runtimes = {name: formats.open_file(path, threads) for name, path in files.items()}
    times: dict[str, list[float]] = {name: [] for name in files}
    begin = time.perf_counter()
    for count in range(_MAX_ROUNDS):
        if count >= _MIN_ROUNDS and time.perf_counter() - begin > _MAX_SECONDS:
            break
        for name, runtime in runtimes.items():
            runtime.run(batch)  # after the other runtimes, caches and threads are cold
            start = time.perf_counter()
            runtime.run(batch)
            times[name].append(time.perf_counter() - start)
    return {n: 1000 * statistics.median(t) / len(batch) for n, t in times.items()}
