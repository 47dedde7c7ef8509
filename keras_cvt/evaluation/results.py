"""The result of an evaluation: as numbers, tables and a plot."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_cvt._utils import plots
from keras_cvt._utils.tables import render
from keras_cvt.description import ModelDescription
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.evaluation.benchmarks import TOLERANCE
from keras_cvt.evaluation.metrics import Metrics

# Rows of the table, and pairs of confused classes in JSON.
WORST = 10
_PAIRS = 100
# What one class is taken for, in a table.
_TAKEN_FOR = 3
# Bars of the plot have names up to here; above, classes are a curve.
_NAMED_BARS = 30
# Characters of a class name in the plot.
_LONGEST = 24


@dataclass(frozen=True)
class ClassResult:
    """The result of one class.

    Attributes:
        index: Its index in the model's scores.
        name: Its name.
        images: Number of its images.
        top1: Share of its images whose best class is right (its recall), in percent;
            None without images, as for the others.
        top5: Share with a right class among the best five, in percent; None of at most
            five classes.
        predicted: Number of all images of which it is the best class.
        precision: Share of those for which this is right, in percent.
    """

    index: int
    name: str
    images: int
    top1: float | None
    top5: float | None
    predicted: int
    precision: float | None


@dataclass(frozen=True)
class Confusion:
    """Images of a class whose best class is another one.

    Attributes:
        label: Name of their class.
        predicted: Name of the best class.
        images: Their number.
    """

    label: str
    predicted: str
    images: int


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """The result of `evaluate`. Accuracies and errors are in percent.

    It prints as a summary with the worst classes. `keras_cvt.hub.Evaluation` is one
    number of it on a model card.

    Attributes:
        description: What was evaluated.
        origin: Its weights or files; see `keras_cvt.inference.Classifier`.
        dataset: Name of the images for people.
        dataset_id: Their id on the Hub.
        split: The split, or `""`.
        benchmark: The key in `BENCHMARKS` of the images, or None.
        transform: How images were resized and cropped.
        class_names: A name for each of the model's classes.
        metrics: All counts.
        unreadable: Number of images that could not be read.
        unlabelled: Number of images without a reassessed label.
        images_per_second: Speed of reading, preprocessing and network together, without
            the first batch; None if there was one batch only.
        published_top1: The published top-1 accuracy, or None.
        published_top5: The published top-5 accuracy, or None.
        versions: Versions of keras_cvt and Keras, and the backend of Keras.
    """

    description: ModelDescription = field(repr=False)
    origin: Mapping[str, Any] = field(repr=False)
    dataset: str
    dataset_id: str
    split: str
    benchmark: str | None
    transform: EvalTransform
    class_names: tuple[str, ...] = field(repr=False)
    metrics: Metrics = field(repr=False)
    unreadable: int
    unlabelled: int
    images_per_second: float | None
    published_top1: float | None
    published_top5: float | None
    versions: Mapping[str, str] = field(repr=False)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.description.name

    @property
    def count(self) -> int:
        """Number of images that were evaluated."""
        return self.metrics.count

    @property
    def left_out(self) -> int:
        """Number of images that were not: `unreadable` and `unlabelled`."""
        return self.unreadable + self.unlabelled

    @property
    def top1(self) -> float:
        """Top-1 accuracy."""
        return self.metrics.top1

    @property
    def top5(self) -> float | None:
        """Top-5 accuracy; None of at most five classes."""
        return self.metrics.top5

    @property
    def ece(self) -> float:
        """Expected calibration error; see `Metrics.ece`."""
        return self.metrics.ece

    @property
    def difference(self) -> float | None:
        """Points by which the top-1 accuracy is above the published one, or None."""
        return None if self.published_top1 is None else self.top1 - self.published_top1

    @property
    def agrees(self) -> bool | None:
        """Whether it is the published one within `TOLERANCE`, or None without one."""
        if self.difference is None:
            return None
        # As printed: 0.1 points may be 0.1000000001.
        return abs(round(self.difference, 2)) <= TOLERANCE

    @property
    def classes(self) -> list[ClassResult]:
        """A row for each class of the model that has images or was an answer."""
        rows = enumerate(self.metrics.per_class())
        return [
            ClassResult(index, self.class_names[index], **row)  # type: ignore[arg-type]
            for index, row in rows
            if row["images"] or row["predicted"]
        ]

    def worst_classes(self, count: int = WORST) -> list[ClassResult]:
        """Return the classes with the lowest top-1 accuracy, the lowest first.

        Args:
            count: Their number. Defaults to `10`.
        """
        seen = [row for row in self.classes if row.top1 is not None]
        return sorted(seen, key=lambda row: (row.top1, -row.images))[:count]

    @property
    def confusions(self) -> list[Confusion]:
        """The pairs of classes that were confused, the most frequent first."""
        return [
            Confusion(self.class_names[label], self.class_names[best], images)
            for label, best, images in self.metrics.mistakes()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON can hold it, with 100 pairs of confused classes."""
        facts = {
            name: getattr(self, name)
            for name in (
                *("model", "dataset", "split", "benchmark", "count", "unreadable"),
                *("unlabelled", "top1", "top5", "published_top1", "published_top5"),
                *("difference", "agrees", "images_per_second"),
            )
        }
        return facts | {
            "mean_class_accuracy": self.metrics.mean_class_accuracy,
            "ece": self.ece,
            "confidence": self.metrics.confidence,
            "calibration": self.metrics.calibration(),
            "classes": [vars(row) for row in self.classes],
            "confusions": [vars(pair) for pair in self.confusions[:_PAIRS]],
            "transform": self.transform.to_dict(),
            "origin": dict(self.origin),
            "versions": dict(self.versions),
        }

    def __str__(self) -> str:
        return self.describe()

    def describe(self, worst: int = WORST) -> str:
        """Return the result as text.

        Args:
            worst: Rows of the table of classes. Defaults to `10`.
        """
        lines = [self._headline()]
        transform = self.transform.to_dict()
        lines.append(
            "Transform: " + ", ".join(f"{k} {v}" for k, v in transform.items())
        )
        accuracies = [f"Top-1 {self.top1:.2f} %"]
        if self.top5 is not None:
            accuracies.append(f"top-5 {self.top5:.2f} %")
        mean = self.metrics.mean_class_accuracy
        accuracies.append(f"mean of the classes' top-1 {mean:.2f} %")
        lines.append(", ".join(accuracies))
        lines.append(
            f"Calibration error (ECE, {self.metrics.bins} bins) {self.ece:.2f} %: the "
            f"best class's score is {self.metrics.confidence:.2f} % on average"
        )
        if self.images_per_second is not None:
            lines.append(f"{self.images_per_second:.1f} images a second, read and run")
        lines += self._comparison()
        lines += ["", self._table(worst)]
        return "\n".join(lines)

    def _headline(self):
        left_out = {
            "cannot be read": self.unreadable,
            "have no reassessed label": self.unlabelled,
        }
        notes = [f"{n:,} {why}" for why, n in left_out.items() if n]
        kind = [self.origin.get(name) for name in ("format", "quantization")]
        exported = f" ({', '.join(filter(None, kind))})" if any(kind) else ""
        return (
            f"{self.model}{exported} on {f'{self.dataset} {self.split}'.strip()}: "
            f"{self.count:,} images"
            + (f", {self.left_out:,} left out ({', '.join(notes)})" if notes else "")
        )

    def _comparison(self):
        if self.difference is None:
            return ["There is no published figure to compare with."]
        agreement = "they agree" if self.agrees else "they DO NOT agree"
        lines = [
            f"Published top-1 {self.published_top1:.2f} %: {self.difference:+.2f} "
            f"points, {agreement} within {TOLERANCE}."
        ]
        if self.published_top5 is not None and self.top5 is not None:
            lines.append(
                f"Published top-5 {self.published_top5:.2f} %: "
                f"{self.top5 - self.published_top5:+.2f} points."
            )
        return lines

    def _table(self, worst):
        taken_for: dict[int, list[str]] = {}
        for label, best, images in self.metrics.mistakes():
            taken_for.setdefault(label, []).append(
                f"{self.class_names[best]} {images:,}"
            )
        titles = ["class", "images", "top-1 %"]
        titles += (
            ["precision %", "taken for"]
            if self.top5 is None
            else [*("top-5 %", "precision %", "taken for")]
        )
        rows = []
        for row in self.worst_classes(worst):
            others = taken_for.get(row.index, [])
            shares = [row.top1] if self.top5 is None else [row.top1, row.top5]
            cells = [row.name, row.images, *shares, row.precision]
            rows.append([*cells, ", ".join(others[:_TAKEN_FOR])])
        present = sum(1 for row in self.classes if row.images)
        title = "All classes" if len(rows) == present else f"{len(rows)} worst classes"
        return f"{title}, the worst first:\n{render(titles, rows)}"

    def plot(self, path: str | os.PathLike) -> None:
        """Draw calibration, accuracy of the classes and confusions, as a PNG file.

        Args:
            path: Where to write, ending in `.png`.

        Raises:
            ImportError: If matplotlib is missing. The message names the extra.
            OSError: If the file cannot be written.
        """
        path = Path(path)
        figure = plots.new_figure(figsize=(16, 5), layout="constrained")
        calibration, classes, confusion = figure.subplots(1, 3)
        figure.suptitle(
            f"{self._headline()}. Top-1 {self.top1:.2f} %, ECE {self.ece:.2f} %"
        )
        self._draw_calibration(calibration)
        self._draw_classes(classes)
        self._draw_confusion(figure, confusion)
        path.parent.mkdir(parents=True, exist_ok=True)
        plots.save_png(figure, path)

    def _draw_calibration(self, axes):
        rows = [row for row in self.metrics.calibration() if row["images"]]
        left = [100 * row["low"] for row in rows]
        width = 100 / self.metrics.bins
        heights = [row["accuracy"] for row in rows]
        axes.bar(
            left,
            heights,
            width,
            align="edge",
            edgecolor="white",
            label="right of these",
        )
        shares = [100 * row["images"] / self.count for row in rows]
        middles = [x + width / 2 for x in left]
        axes.plot(middles, shares, "o-", color="tab:orange", label="of all images")
        axes.plot([0, 100], [0, 100], "--", color="grey", label="perfectly calibrated")
        axes.set(xlim=(0, 100), ylim=(0, 100), title="Calibration")
        axes.set(xlabel="score of the best class, %", ylabel="images, %")
        axes.legend()

    def _draw_classes(self, axes):
        rows = self.worst_classes(len(self.class_names))[::-1]
        values = [row.top1 for row in rows]
        if len(rows) <= _NAMED_BARS:
            names = [_short(row.name) for row in rows]
            axes.barh(range(len(rows)), values, tick_label=names)
            axes.set(xlim=(0, 100), xlabel="top-1, %")
        else:
            axes.plot(np.arange(1, len(rows) + 1), values)
            axes.set(ylim=(0, 100), ylabel="top-1, %", xlim=(1, len(rows)))
            axes.set(xlabel="classes, the best first")
        axes.set(title="Accuracy of the classes")
        axes.grid(alpha=0.3)

    def _draw_confusion(self, figure, axes):
        """Draw what the images of the worst classes were taken for."""
        worst = [row.index for row in self.worst_classes()]
        # The answers that these classes got most often, and the classes themselves.
        columns = list(worst)
        for label, best, _ in self.metrics.mistakes():
            if label in worst and best not in columns and len(columns) < 2 * WORST:
                columns.append(best)
        counts = self.metrics.confusion_matrix(worst)
        shares = 100 * counts[:, columns] / counts.sum(axis=1, keepdims=True)
        image = axes.imshow(shares, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        names = [_short(self.class_names[index]) for index in columns]
        axes.set_xticks(range(len(columns)), names, rotation=90)
        axes.set_yticks(range(len(worst)), names[: len(worst)])
        axes.set(title="The worst classes", xlabel="best class", ylabel="class")
        figure.colorbar(image, ax=axes, label="images of the class, %")


def _short(name):
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
