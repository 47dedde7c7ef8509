"""The data sets of which accuracies are published, and those accuracies."""

from dataclasses import dataclass

from keras_cvt import zoo
from keras_cvt.inference import Classifier

# A top-1 accuracy that differs by more, in points, is not the published one.
TOLERANCE = 0.1


@dataclass(frozen=True)
class BenchmarkRecord:
    """A data set that accuracies are published of.

    Attributes:
        title: Its name for people.
        dataset_id: Its id on the Hub.
        source: Its name and configuration in TensorFlow Datasets, or `""`.
        split: The split that is evaluated.
        fields: Names of the fields of `zoo.WeightsRecord` with the top-1 and top-5
            accuracy, or none if no accuracy has been checked.
    """

    title: str
    dataset_id: str
    source: str
    split: str
    fields: tuple[str, ...] = ()


BENCHMARKS = {
    "imagenet": BenchmarkRecord(
        "ImageNet-1k", "imagenet-1k", "imagenet2012", "validation", ("top1", "top5")
    ),
    # Accuracies on its other two selections of images are higher.
    "imagenet_v2": BenchmarkRecord(
        "ImageNet-V2",
        "imagenet-v2",
        "imagenet_v2/matched-frequency",
        "test",
        ("imagenet_v2_top1", "imagenet_v2_top5"),
    ),
    # The images are ImageNet's. No ReaL accuracy of these weights has been checked.
    "imagenet_real": BenchmarkRecord(
        "ImageNet ReaL", "imagenet-real", "", "validation"
    ),
}


def find_benchmark(full_name: str, split: str) -> str | None:
    """Return the key in `BENCHMARKS` of a data set of TensorFlow Datasets, or None.

    Args:
        full_name: Its name, configuration and version, as its builder's
            `info.full_name`.
        split: The split. Part of it, such as `"test[:10%]"`, is another data set.
    """
    for key, benchmark in BENCHMARKS.items():
        name = full_name.rpartition("/")[0]
        if benchmark.source and (name, split) == (benchmark.source, benchmark.split):
            return key
    return None


def find_weights(classifier: Classifier) -> zoo.WeightsRecord | None:
    """Return the published weights of a classifier, or None if they are none.

    Fine-tuned weights are none, and neither are those of a model that takes images of
    another size than the published accuracy was measured with.
    """
    # Of another revision of their repository, nothing is published.
    record = zoo.list_weights().get(classifier.description.source_weights or "")
    if record is None or record.eval_transform != classifier.eval_transform:
        return None
    return record


def published(
    benchmark: str | None, record: zoo.WeightsRecord | None
) -> tuple[float | None, float | None]:
    """Return the published top-1 and top-5 accuracy in percent, or None for each."""
    fields = BENCHMARKS[benchmark].fields if benchmark and record else ()
    top1, top5 = [getattr(record, name) for name in fields] or (None, None)
    return top1, top5
