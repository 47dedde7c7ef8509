"""What a benchmark of files measured: records, a table, a plot."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cvt import plots
from keras_cvt.deploy.verify import Verification
from keras_cvt.tables import render


@dataclass(frozen=True)
class Measurement:
    """One format of a benchmark.

    Attributes:
        name: As `keras_cvt.deploy.benchmark` calls it.
        verification: The file beside its model; None where there is no file that ran.
        skipped: The extra that is missing, where the format was skipped; or None.
        failed: Why there is no file, or it does not run, although all that it takes
            is installed; or None.
    """

    name: str
    verification: Verification | None
    skipped: str | None = None
    failed: str | None = None

    @property
    def ratio(self) -> float | None:
        """Speed beside the Keras model's, measured right after."""
        seen = self.verification
        return seen and seen.images_per_second / seen.model_images_per_second


@dataclass(frozen=True)
class Benchmark:
    """What `keras_cvt.deploy.benchmark` measured.

    Attributes:
        measurements: One a format, the Keras model first.
        images: How many were compared.
        image_size: (height, width) in pixels.
        batch_size: Images a call.
        threads: Of the runtimes; None means as many as the processor has.
        calibration: What `litert_int8` took its ranges from, in words; None without
            it.
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
        return not any(row.failed for row in self.measurements) and all(
            seen.passed for seen in self._verifications().values()
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        facts = dataclasses.asdict(self) | {"passed": self.passed}
        facts["measurements"] = [
            {"name": row.name, "ratio": row.ratio, "skipped": row.skipped}
            | ({"failed": row.failed, "passed": False} if row.failed else {})
            | (row.verification.to_dict() if row.verification else {})
            for row in self.measurements
        ]
        return facts

    def __str__(self) -> str:
        """Return a table for people, with what it takes to read it below."""
        titles = ["format", "MiB", "images/s", "x Keras", "largest difference"]
        titles += ["cosine", "top-1 %", "verdict"]
        height, width = self.image_size
        lines = [
            render(titles, map(_row, self.measurements)),
            "",
            f"{self.images} images of {height} x {width}, {self.batch_size} a call, "
            f"{self.threads or 'all'} threads. Cosine is the smallest of an image's",
            "outputs with the Keras model's. x Keras: each beside `predict_on_batch`, "
            "measured right after it.",
        ]
        if self.calibration:
            lines.append(f"int8 was calibrated on {self.calibration}.")
        lines += [
            f"{row.name} was skipped. {row.skipped}"
            for row in self.measurements
            if row.skipped
        ]
        lines += [
            f"{name} FAILED: expected {seen.tolerance}."
            for name, seen in self._verifications().items()
            if not seen.passed
        ]
        lines += [
            f"{row.name} FAILED. {row.failed}"
            for row in self.measurements
            if row.failed
        ]
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike) -> None:
        """Draw speed against agreement to a PNG file.

        Args:
            path: Where to write, `….png`.

        Raises:
            ImportError: If matplotlib is missing; the message names the extra.
        """
        path = Path(path)
        seen = self._verifications()
        shares = [v.top1_agreement for v in seen.values()]
        classes = None not in shares
        figure = plots.new_figure(figsize=(11, 4.2), layout="constrained")
        axes = figure.subplots(1, 1 + classes, squeeze=False)
        *agreement, difference = axes[0]
        for name, v in seen.items():
            style = {"marker": "o" if v.passed else "X", "linestyle": "none"}
            style["label"] = name if v.passed else f"{name}, failed"
            # A logarithm knows no 0.
            largest = max(v.max_difference, 1e-8)
            difference.plot(v.images_per_second, largest, **style)
            for axis in agreement:
                axis.plot(v.images_per_second, 100 * v.top1_agreement, **style)
        difference.set(ylabel="largest difference of an output", yscale="log")
        for axis in agreement:
            axis.set(ylabel="same best class as the Keras model, %")
            axis.set_ylim(min(98, 100 * min(shares) - 1), 100.2)
        for axis in axes[0]:
            axis.set(xlabel=f"images/s, {self.batch_size} a call")
            axis.set_xlim(left=0)
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
        None if seen.top1_agreement is None else 100 * seen.top1_agreement,
        "passed" if seen.passed else "FAILED",
    ]
