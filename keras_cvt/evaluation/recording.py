"""The result of an evaluation in the folder of a model for the Hub."""

from typing import Any

from keras_cvt.evaluation.results import EvaluationResult
from keras_cvt.hub import card, folder
from keras_cvt.preprocessing.images import PathLike

_COMMAND = "keras-cvt evaluate"
# Decimals of percentages in the card and in verification.json.
_SHOWN, _KEPT = 2, 4


def record(evaluation: EvaluationResult, path: PathLike) -> None:
    """Write a result into a folder that `hub.write_folder` or `hub.release` wrote.

    The card's table and `model-index` get the top-1 and top-5 accuracy, and
    `verification.json` gets all numbers but those of single classes. Results of other
    images or files of the folder stay; a second call with the same result changes
    nothing. `keras_cvt.hub.upload_folder` then pushes the folder.

    Args:
        evaluation: The result of the folder's Keras model, or of an exported file in
            it.
        path: The folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is another folder, or the result is of another model.
        CheckpointError: If a file has changed since it was verified.
        OSError: If a file cannot be written.

    Example:
        >>> result = evaluation.evaluate(model, "flowers")
        >>> evaluation.record(result, "page")
    """
    name = folder.find_evaluated(path, evaluation.description, evaluation.origin)
    is_export = "files_sha256" in evaluation.origin
    source = f"{_COMMAND}, {name}" if is_export else _COMMAND
    measured = {"accuracy": evaluation.top1, "top-5 accuracy": evaluation.top5}
    rows = [
        card.Evaluation(
            evaluation.dataset,
            evaluation.dataset_id,
            metric,
            round(value, _SHOWN),
            evaluation.split,
            source,
            title=f"{metric} ({source})",
        )
        for metric, value in measured.items()
        if value is not None
    ]
    folder.add_evaluations(path, rows, _facts(evaluation, name))


def _facts(evaluation, name) -> dict[str, Any]:
    metrics = evaluation.metrics
    percentages = {
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "mean_class_accuracy": metrics.mean_class_accuracy,
        "ece": evaluation.ece,
        "published_top1": evaluation.published_top1,
        "published_top5": evaluation.published_top5,
    }
    return {
        "file": name,
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "benchmark": evaluation.benchmark,
        "images": evaluation.count,
        "left_out": evaluation.left_out,
        **{k: None if v is None else round(v, _KEPT) for k, v in percentages.items()},
        "ece_bins": metrics.bins,
        "transform": evaluation.transform.to_dict(),
        "versions": dict(evaluation.versions),
    }
