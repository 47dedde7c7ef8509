"""Results of a benchmark: records, a table and a plot."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cvt._utils import plots
from keras_cvt._utils.tables import render
from keras_cvt.deploy.verification import Verification


@dataclass(frozen=True)
class Measurement:
    """One format of a benchmark.

    Attributes:
        name: A name in `keras_cvt.deploy.FORMATS`.
        verification: How the file compares with the model, or None if no file ran.
        skipped: Which extra is missing, or None if the format was not skipped.
        failed: Why the export or the run failed although all packages are installed,
            or None if it did not fail.
    """

    name: str
    verification: Verification | None
    skipped: str | None = None
    failed: str | None = None

    @property
    def ratio(self) -> float | None:
        """The file's speed divided by the Keras model's, measured right after it."""
        seen = self.verification
        if seen is None:
            return None
        return seen.images_per_second / seen.model_images_per_second


@dataclass(frozen=True)
class Benchmark:
    """Result of `keras_cvt.deploy.benchmark`.

    Attributes:
        measurements: One measurement per format, the Keras model first.
        images: Number of images that were compared.
        image_size: (height, width) in pixels.
        batch_size: Number of images per call.
        threads: Number of threads of the runtimes, or None for one per processor.
        calibration: The images that int8 was calibrated on, in words, or None if no
            format needed any.
    """

    measurements: tuple[Measurement, ...]
    images: int
    image_size: tuple[int, int]
    batch_size: int
    threads: int | None
    calibration: str | None

    @property
    def passed(self) -> bool:
        """Whether every format that was not skipped passed its verification."""
        passed = [seen.passed for seen in self._verifications().values()]
        return all(passed) and not any(row.failed for row in self.measurements)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as a dict for JSON."""
        facts = dataclasses.asdict(self) | {"passed": self.passed}
        facts["measurements"] = [
            {"name": row.name, "ratio": row.ratio, "skipped": row.skipped}
            | ({"failed": row.failed, "passed": False} if row.failed else {})
            | (row.verification.to_dict() if row.verification else {})
            for row in self.measurements
        ]
        return facts

    def __str__(self) -> str:
        """Return a table with an explanation below it."""
        titles = ["format", "MiB", "images/s", "x Keras", "largest difference"]
        titles += ["cosine", "same answers %", "verdict"]
        height, width = self.image_size
        lines = [
            render(titles, map(_row, self.measurements)),
            "",
            f"{self.images} images of {height} x {width}, {self.batch_size} per call, "
            f"{self.threads or 'all'} threads. Cosine: the smallest cosine of an",
            "image's outputs with the Keras model's. x Keras: speed divided by that of "
            "`predict_on_batch`, measured right after it.",
        ]
        if self.calibration:
            lines.append(f"int8 was calibrated on {self.calibration}.")
        for row in self.measurements:
            if row.skipped:
                lines.append(f"{row.name} was skipped. {row.skipped}")
            elif row.failed:
                lines.append(f"{row.name} FAILED. {row.failed}")
            elif row.verification and not row.verification.passed:
                tolerance, advice = row.verification.tolerance, row.verification.advice
                lines.append(f"{row.name} FAILED: expected {tolerance}. {advice or ''}")
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike) -> None:
        """Draw speed against agreement, as a PNG file.

        Args:
            path: Where to write, ending in `.png`.

        Raises:
            ImportError: If matplotlib is missing. The message names the extra.
        """
        path = Path(path)
        seen = self._verifications()
        shares = [v.agreement for v in seen.values()]
        figure = plots.new_figure(figsize=(11, 4.2), layout="constrained")
        (axes,) = figure.subplots(1, 1 + (None not in shares), squeeze=False)
        *agreement, difference = axes
        for name, v in seen.items():
            style = {"marker": "o" if v.passed else "X", "linestyle": "none"}
            style["label"] = name if v.passed else f"{name}, failed"
            # A logarithmic axis cannot show 0.
            largest = max(v.max_difference, 1e-8)
            difference.plot(v.images_per_second, largest, **style)
            for axis in agreement:
                axis.plot(v.images_per_second, 100 * v.agreement, **style)
        difference.set(ylabel="largest difference of an output", yscale="log")
        for axis in agreement:
            axis.set(ylabel="same answers as the Keras model, %")
            axis.set_ylim(min(98, 100 * min(shares) - 1), 100.2)
        for axis in axes:
            axis.set(xlabel=f"images/s, {self.batch_size} per call", xlim=(0, None))
            axis.grid(alpha=0.3)
        handles = difference.get_legend_handles_labels()
        figure.legend(*handles, loc="outside right upper")
        path.parent.mkdir(parents=True, exist_ok=True)
        plots.save_png(figure, path)

    def _verifications(self):
        return {m.name: m.verification for m in self.measurements if m.verification}


def _row(measurement):
    seen = measurement.verification
    if seen is None:
        verdict = "FAILED" if measurement.failed else "skipped"
        return [measurement.name, *[None] * 6, verdict]
    return [
        measurement.name,
        seen.size_bytes / 2**20,
        seen.images_per_second,
        measurement.ratio,
        f"{seen.max_difference:.1e}",
        f"{seen.cosine:.6f}",
        None if seen.agreement is None else 100 * seen.agreement,
        "passed" if seen.passed else "FAILED",
    ]
