"""The metrics are those of scikit-learn and of their definitions."""

import pickle

import numpy as np
import pytest

from keras_cvt.evaluation import Metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def answers(classes=9, count=500, seed=0):
    """Return scores and labels with right and wrong answers of all confidences."""
    rng = np.random.default_rng(seed)
    # Class 0 is never right, and the last class has no image.
    labels = rng.integers(0, classes - 1, count)
    logits = rng.normal(0, 1.5, (count, classes))
    logits[np.arange(count), labels] += rng.uniform(0, 5, count)
    logits[labels == 0, 0] -= 30
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return scores.astype("float32"), labels


def measured(scores, labels, batch=64, **arguments):
    metrics = Metrics(scores.shape[1], **arguments)
    for start in range(0, len(labels), batch):
        part = slice(start, start + batch)
        metrics.update(scores[part], labels[part])
    return metrics


def test_accuracies_are_those_of_scikit_learn():
    scores, labels = answers()
    metrics, best = measured(scores, labels), scores.argmax(axis=1)
    top1 = sklearn_metrics.accuracy_score(labels, best)
    top5 = sklearn_metrics.top_k_accuracy_score(labels, scores, k=5, labels=range(9))
    mean = sklearn_metrics.recall_score(
        labels, best, labels=range(8), average="macro", zero_division=0
    )
    assert 0.2 < top1 < top5 < 0.95
    assert metrics.count == 500
    assert metrics.top1 == pytest.approx(100 * top1)
    assert metrics.top5 == pytest.approx(100 * top5)
    assert metrics.mean_class_accuracy == pytest.approx(100 * mean)


def test_rows_of_classes_are_those_of_scikit_learn():
    scores, labels = answers()
    rows, best = measured(scores, labels).per_class(), scores.argmax(axis=1)
    precision, recall, _, images = sklearn_metrics.precision_recall_fscore_support(
        labels, best, labels=range(9), zero_division=np.nan
    )
    assert [row["images"] for row in rows] == images.tolist()
    assert [row["predicted"] for row in rows] == np.bincount(best, minlength=9).tolist()
    for row, p, r in zip(rows, precision, recall, strict=True):
        assert (row["top1"] is None) == np.isnan(r)
        assert (row["precision"] is None) == np.isnan(p)
        if row["top1"] is not None:
            assert row["top1"] == pytest.approx(100 * r)
        if row["precision"] is not None:
            assert row["precision"] == pytest.approx(100 * p)
    assert rows[0]["top1"] == 0 and rows[8]["top1"] is None


def test_confusions_are_those_of_scikit_learn():
    scores, labels = answers()
    metrics, best = measured(scores, labels), scores.argmax(axis=1)
    expected = sklearn_metrics.confusion_matrix(labels, best, labels=range(9))
    np.testing.assert_array_equal(metrics.confusion_matrix(), expected)
    np.testing.assert_array_equal(metrics.confusion_matrix([3, 1]), expected[[3, 1]])
    wrong = expected - np.diag(np.diag(expected))
    assert {(i, j): n for i, j, n in metrics.mistakes()} == {
        (i, j): wrong[i, j] for i, j in zip(*wrong.nonzero(), strict=True)
    }
    numbers = [n for _, _, n in metrics.mistakes()]
    assert numbers == sorted(numbers, reverse=True)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_is_that_of_scikit_learn_and_of_the_definition(bins):
    from sklearn.calibration import calibration_curve

    scores, labels = answers()
    metrics = measured(scores, labels, bins=bins)
    confidence = scores.max(axis=1).astype("float64")
    right = scores.argmax(axis=1) == labels
    shares, means = calibration_curve(right, confidence, n_bins=bins)
    rows = [row for row in metrics.calibration() if row["images"]]
    assert [row["accuracy"] for row in rows] == pytest.approx(list(100 * shares))
    assert [row["confidence"] for row in rows] == pytest.approx(list(100 * means))
    assert metrics.confidence == pytest.approx(100 * confidence.mean())
    # sum_m |B_m| / n * |acc(B_m) - conf(B_m)|, of the intervals ((m - 1) / M, m / M]
    ece = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            ece += inside.mean() * gap
    assert ece > 0.01
    assert metrics.ece == pytest.approx(100 * ece)


def test_the_calibration_error_of_known_answers():
    # Three of four are right at a score of 0.75: perfect.
    scores = np.tile([0.75, 0.25], (4, 1))
    assert measured(scores, [0, 0, 0, 1]).ece == pytest.approx(0)
    # All are wrong at 0.75, and all are right at 1.
    assert measured(scores, [1, 1, 1, 1]).ece == pytest.approx(75)
    assert measured(np.eye(2), [0, 1]).ece == 0
    # Both kinds of error in one interval cancel; in two they do not.
    scores = np.array([[0.51, 0.49], [0.99, 0.01]])
    assert measured(scores, [0, 1], bins=1).ece == pytest.approx(25)
    assert measured(scores, [0, 1]).ece == pytest.approx(50 * (0.49 + 0.99))


def test_batches_of_any_size_give_the_same():
    scores, labels = answers()
    whole = measured(scores, labels, batch=500)
    for batch in (1, 7, 499):
        parts = measured(scores, labels, batch=batch)
        assert parts.per_class() == whole.per_class()
        assert parts.mistakes() == whole.mistakes()
        assert parts.ece == pytest.approx(whole.ece)


def test_memory_does_not_grow_with_the_images():
    scores, labels = answers()
    sizes = []
    metrics = Metrics(9)
    for _ in range(20):
        metrics.update(scores, labels)
        sizes.append(len(pickle.dumps(metrics)))
    assert metrics.count == 10_000
    # The counts have more digits.
    assert sizes[-1] < sizes[0] + 200


def test_any_of_several_right_classes_is_a_hit():
    scores = np.array([[0.5, 0.3, 0.1, 0.04, 0.03, 0.02, 0.01]] * 4)
    metrics = Metrics(7)
    # Best class 0; the best five are 0-4.
    metrics.update(scores, [1, 1, 2, 2], right=[{0, 1}, {4, 6}, {5, 6}, {0}])
    assert (metrics.top1, metrics.top5) == (50, 75)
    rows = metrics.per_class()
    assert (rows[1]["images"], rows[1]["top1"], rows[1]["top5"]) == (2, 50, 100)
    assert (rows[2]["images"], rows[2]["top1"], rows[2]["top5"]) == (2, 50, 50)
    assert (rows[0]["predicted"], rows[0]["precision"]) == (4, 50)
    assert metrics.mistakes() == [(1, 0, 1), (2, 0, 1)]
    assert metrics.confusion_matrix().sum() == 4


def test_five_classes_have_no_top_five():
    metrics = measured(np.eye(5), range(5))
    assert metrics.top5 is None and metrics.per_class()[0]["top5"] is None
    assert measured(np.eye(6), range(6)).top5 == 100


def test_of_equal_scores_the_first_class_is_the_answer():
    metrics = measured(np.full((2, 2), 0.5), [0, 1])
    assert metrics.top1 == 50 and metrics.mistakes() == [(1, 0, 1)]


@pytest.mark.parametrize(
    ("scores", "labels", "right", "message"),
    [
        (np.ones((2, 2)), [0, 1], None, "scores of 3 classes.*Received: shape"),
        (np.ones((2, 3)), [0], None, "for 2 images"),
        (np.ones((2, 3)), [0, 1], [], "`right` for 0 images"),
        (np.ones((2, 3)), [0, 3], None, "labels of 0-2. Received: 3"),
        (np.ones((2, 3)), [-1, 0], None, "labels of 0-2. Received: -1"),
        (np.full((1, 3), np.nan), [0], None, "Expected probabilities"),
        (np.full((1, 3), -2.0), [0], None, "Expected probabilities"),
        (np.full((1, 3), 7.0), [0], None, "Expected probabilities"),
    ],
)
def test_wrong_scores_and_labels_are_refused_and_not_counted(
    scores, labels, right, message
):
    metrics = Metrics(3)
    with pytest.raises(ValueError, match=message):
        metrics.update(scores, labels, right)
    assert metrics.count == 0


@pytest.mark.parametrize("arguments", [{"classes": 1}, {"classes": 3, "bins": 0}])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="must be an integer of at least"):
        Metrics(**arguments)
