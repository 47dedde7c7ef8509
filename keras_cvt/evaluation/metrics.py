"""Accuracy and calibration from scores, batch by batch."""

import collections
from collections.abc import Collection, Sequence

import numpy as np

from keras_cvt._utils import validation
from keras_cvt.inference.classifier import best_classes

# "Top-5" of fewer classes than six is always 100 %.
_TOP = 5
# Of Guo et al., with whose figures an ECE is compared.
BINS = 15


class Metrics:
    """Counts from which all metrics follow.

    They take the memory of a few numbers for each class and each pair of classes that
    were confused, however many images there are. All metrics are in percent.

    Args:
        classes: Number of classes, at least 2.
        bins: Number of equal intervals of the score, for the calibration. Defaults to
            `15`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        ```python
        metrics = Metrics(classes=3)
        metrics.update(np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]), [1, 2])
        metrics.top1  # 50.0
        ```

    Reference:
        The expected calibration error: "On Calibration of Modern Neural Networks",
        arXiv 1706.04599.
    """

    def __init__(self, classes: int, bins: int = BINS):
        validation.check_int(2, classes=classes)
        validation.check_int(1, bins=bins)
        self.classes = classes
        self.bins = bins
        self._images = np.zeros(classes, "int64")
        self._hits = np.zeros(classes, "int64")
        self._hits_top = np.zeros(classes, "int64")
        self._predicted = np.zeros(classes, "int64")
        self._predicted_hits = np.zeros(classes, "int64")
        # (label, best class) of the images whose best class is wrong.
        self._mistakes: collections.Counter[tuple[int, int]] = collections.Counter()
        self._bin_images = np.zeros(bins, "int64")
        self._bin_hits = np.zeros(bins, "int64")
        self._bin_confidence = np.zeros(bins, "float64")

    def update(
        self,
        scores: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        right: Sequence[Collection[int]] | None = None,
    ) -> None:
        """Count the answers for some images.

        Of classes with equal scores, the one with the lower index comes first.

        Args:
            scores: Probabilities (B, classes).
            labels: The index of each image's class, (B,).
            right: For each image all classes that are right, if there may be several.
                Each image still belongs to the class of its label. Defaults to `None`:
                only the label is right.

        Raises:
            ValueError: If the shapes do not fit, or a score or a label is out of
                range.
        """
        scores, labels = np.asarray(scores), np.asarray(labels, "int64")
        self._check(scores, labels, right)
        best = best_classes(scores, _TOP)
        if right is None:
            hits = best == labels[:, None]
        else:
            hits = np.array(
                [
                    [int(index) in valid for index in row]
                    for row, valid in zip(best, right, strict=True)
                ],
                "bool",
            ).reshape(best.shape)
        first, hit = best[:, 0], hits[:, 0]
        np.add.at(self._images, labels, 1)
        np.add.at(self._hits, labels, hit)
        np.add.at(self._hits_top, labels, hits.any(axis=1))
        np.add.at(self._predicted, first, 1)
        np.add.at(self._predicted_hits, first, hit)
        pairs = zip(labels[~hit].tolist(), first[~hit].tolist(), strict=True)
        self._mistakes.update(pairs)

        confidence = scores[np.arange(len(first)), first].astype("float64")
        # Intervals are open on the left: (0, 1/15], (1/15, 2/15], ...
        edges = np.linspace(0, 1, self.bins + 1)
        place = np.clip(np.searchsorted(edges, confidence) - 1, 0, self.bins - 1)
        np.add.at(self._bin_images, place, 1)
        np.add.at(self._bin_hits, place, hit)
        np.add.at(self._bin_confidence, place, confidence)

    def _check(self, scores, labels, right):
        if scores.ndim != 2 or scores.shape[1] != self.classes:
            raise ValueError(
                f"Expected scores of {self.classes} classes, (B, {self.classes}). "
                f"Received: shape={scores.shape}"
            )
        given = len(scores) if right is None else len(right)
        if labels.shape != scores.shape[:1] or given != len(scores):
            raise ValueError(
                f"Expected labels and `right` for {len(scores)} images. Received: "
                f"labels of shape {labels.shape}, `right` for {given} images"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < self.classes:
            wrong = labels[(labels < 0) | (labels >= self.classes)][0]
            raise ValueError(
                f"Expected labels of 0-{self.classes - 1}. Received: {wrong}"
            )
        # Softmax may exceed 1 in the last digit.
        if not ((scores >= 0) & (scores <= 1.001)).all():
            raise ValueError(
                "Expected probabilities, scores of 0-1. Received: scores from "
                f"{scores.min()} to {scores.max()}"
            )

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self._images.sum())

    @property
    def top1(self) -> float:
        """Share of the images whose best class is right, in percent."""
        return _percent(self._hits.sum(), self.count)

    @property
    def top5(self) -> float | None:
        """Share with a right class among the best five; None of at most 5 classes."""
        if self.classes <= _TOP:
            return None
        return _percent(self._hits_top.sum(), self.count)

    @property
    def mean_class_accuracy(self) -> float:
        """Mean of the classes' top-1 accuracies, in percent: each counts alike."""
        present = self._images > 0
        if not present.any():
            return float("nan")
        return float(100 * np.mean(self._hits[present] / self._images[present]))

    @property
    def ece(self) -> float:
        """Expected calibration error, in percent; 0 is perfect.

        By how much the best class's score differs from the share of right answers,
        in each interval of the score, weighted by its number of images.
        """
        gaps = np.abs(self._bin_confidence - self._bin_hits)
        return _percent(gaps.sum(), self.count)

    @property
    def confidence(self) -> float:
        """Mean score of the best class, in percent."""
        return _percent(self._bin_confidence.sum(), self.count)

    def calibration(self) -> list[dict[str, float | int | None]]:
        """Return the intervals of the score, lowest first.

        Each has `"low"` and `"high"`, its limits; `"images"`, their number; and in
        percent `"confidence"`, the mean score of their best classes, and `"accuracy"`,
        the share that is right. The last two are None without images.
        """
        edges = np.linspace(0, 1, self.bins + 1)
        rows: list[dict[str, float | int | None]] = []
        for i, images in enumerate(self._bin_images.tolist()):
            sums = (self._bin_confidence[i], self._bin_hits[i])
            means = [_percent(s, images) if images else None for s in sums]
            rows.append(
                {
                    "low": float(edges[i]),
                    "high": float(edges[i + 1]),
                    "images": images,
                    "confidence": means[0],
                    "accuracy": means[1],
                }
            )
        return rows

    def per_class(self) -> list[dict[str, float | int | None]]:
        """Return a row for each class, in the order of the scores.

        Each has `"images"`, their number; in percent `"top1"` (the class's recall) and
        `"top5"`; `"predicted"`, the number of images of which it is the best class; and
        `"precision"`, the share of those that is right, in percent. A share of no
        image is None, and so is `"top5"` of at most five classes.
        """
        rows: list[dict[str, float | int | None]] = []
        for i in range(self.classes):
            images, predicted = int(self._images[i]), int(self._predicted[i])
            top = images and self.classes > _TOP
            rows.append(
                {
                    "images": images,
                    "top1": _percent(self._hits[i], images) if images else None,
                    "top5": _percent(self._hits_top[i], images) if top else None,
                    "predicted": predicted,
                    "precision": (
                        _percent(self._predicted_hits[i], predicted)
                        if predicted
                        else None
                    ),
                }
            )
        return rows

    def mistakes(self) -> list[tuple[int, int, int]]:
        """Return (label, best class, number of images) of the wrong answers.

        The most frequent come first.
        """
        ordered = sorted(self._mistakes.items(), key=lambda item: (-item[1], item[0]))
        return [(label, best, images) for (label, best), images in ordered]

    def confusion_matrix(self, labels: Sequence[int] | None = None) -> np.ndarray:
        """Return the number of images of each label and best class.

        Args:
            labels: The labels whose rows are wanted. Defaults to `None`: all.

        Returns:
            int64 (labels, classes), rows by label, columns by best class. An answer
            that `right` allowed stands at its label.
        """
        wanted = range(self.classes) if labels is None else labels
        row_of = {label: row for row, label in enumerate(wanted)}
        matrix = np.zeros((len(row_of), self.classes), "int64")
        for label, row in row_of.items():
            matrix[row, label] = self._hits[label]
        for (label, best), images in self._mistakes.items():
            if label in row_of:
                matrix[row_of[label], best] += images
        return matrix


def _percent(part, whole):
    return float(100 * part / whole) if whole else float("nan")
