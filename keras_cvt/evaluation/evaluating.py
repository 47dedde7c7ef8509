"""Evaluate a classifier on labelled images, in constant memory."""

import collections
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence

import keras

from keras_cvt._utils import validation
from keras_cvt.evaluation import benchmarks
from keras_cvt.evaluation.classes import match_classes, unique_names
from keras_cvt.evaluation.images import (
    LabelledImages,
    name_of,
    open_images,
    read_real_labels,
    real_labels_of,
)
from keras_cvt.evaluation.metrics import BINS, Metrics
from keras_cvt.evaluation.results import EvaluationResult
from keras_cvt.inference import Classifier, classifier_of
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.batches import ImageFile, file_batches
from keras_cvt.preprocessing.images import PathLike


def evaluate(
    model: CvTModel | Classifier | PathLike,
    source: PathLike,
    split: str | None = None,
    *,
    data_dir: PathLike | None = None,
    real_labels: PathLike | None = None,
    class_names: Sequence[str] | None = None,
    benchmark: str | None = None,
    published: float | None = None,
    dataset: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    threads: int | None = None,
    bins: int = BINS,
    progress: Callable[[int, int, list[tuple[str, Exception]]], None] | None = None,
) -> EvaluationResult:
    """Measure the accuracy and calibration of a classifier on labelled images.

    Images are read with Pillow and resized and cropped by the model's own
    `eval_transform`, as in the official evaluation, in threads while the network
    computes. Of all images together, only their paths are in memory.

    Args:
        model: A Keras model, the path of a `.keras` file or of what
            `keras_cvt.deploy.export` wrote, or what `classifier_of` returned. At least
            two classes. With a sigmoid, the highest score is the answer.
        source: One of

            - a folder with a folder of images for each class, `<class>/<image>`, or
              with such folders for each split, `<split>/<class>/<image>`; see
              `keras_cvt.data.open_source` for the files,
            - the directory of a prepared data set of TensorFlow Datasets,
            - the name of such a data set, which is downloaded: `"imagenet2012"` (which
              needs ImageNet's own files), `"imagenet_v2"`, `"cifar10"`.

            Its classes may be some of the model's; see `match_classes`. The scores of
            all classes of the model compete nevertheless.
        split: The split. Defaults to `None`: `"validation"` (which finds `val`,
            `valid` and `test` too), or a folder without splits as a whole.
        data_dir: The folder in which TensorFlow Datasets keeps its data. Defaults to
            `None`, its own default.
        real_labels: `real.json` of https://github.com/google-research/reassessed-imagenet,
            to use the reassessed labels (ReaL): any of an image's labels is right,
            and images without one do not count. The images need their original names,
            `ILSVRC2012_val_00000001.JPEG`. The rows of classes stay those of `source`.
            Defaults to `None`.
        class_names: A name for each class. Defaults to `None`: those of the model, or
            ImageNet's for 1000 classes.
        benchmark: The key in `BENCHMARKS` of the images, if `source` is a folder, to
            compare with the published accuracy. Defaults to `None`: that of a data set
            of TensorFlow Datasets.
        published: A published top-1 accuracy in percent to compare with. Defaults to
            `None`: that of published weights on a benchmark.
        dataset: What to call the images. Defaults to `None`: the name of the data set
            or folder.
        batch_size: Images per call. Defaults to `64`.
        workers: Threads that read images. Defaults to `None`: one for each processor.
        threads: Threads of the runtime of an exported file. Defaults to `None`: one
            for each processor.
        bins: Number of intervals of the score, for the calibration. Defaults to `15`.
        progress: Function of the number of images that are done, the number of all,
            and the names of those that could not be read since the last call, with the
            errors. Defaults to `None`.

    Returns:
        What was measured.

    Raises:
        FileNotFoundError: If there is no such file, folder or data set.
        ValueError: If the model is no classifier of photos with at least two classes,
            the classes do not match, no image can be read, or an argument is out of
            range.
        ImportError: If the runtime of an exported file or TensorFlow Datasets is
            missing.

    Example:
        ```python
        from keras_cvt import evaluation

        result = evaluation.evaluate("tuned/best.keras", "flowers")
        print(result.top1, result.ece)  # percent
        print(result)
        ```

    Reference:
        ImageNet-V2: arXiv 1902.10811. ReaL: arXiv 2006.07159.
    """
    validation.check_int(1, batch_size=batch_size, bins=bins)
    if benchmark is not None:
        validation.check_choice(tuple(benchmarks.BENCHMARKS), benchmark=benchmark)
        if (benchmark == "imagenet_real") != (real_labels is not None):
            raise ValueError(
                "Expected benchmark='imagenet_real' with `real_labels`, another one "
                f"without. Received: benchmark={benchmark!r}, "
                f"real_labels={real_labels!r}"
            )
    if published is not None:
        validation.check(
            lambda x: validation.is_number(x) and 0 <= x <= 100,
            "a percentage",
            published=published,
        )
    classifier = _classifier(model, class_names, threads)
    images = open_images(source, split, data_dir, named=real_labels is not None)
    label_of = match_classes(images.class_names, classifier)
    classes = classifier.description.classes
    if (
        real_labels is not None
        and classes == 1000
        and "wnid" not in classifier.classes[0]
    ):
        raise ValueError(
            "Expected a model whose classes are ImageNet's: the reassessed labels are "
            f"numbers of these. Received: {classifier.description.name}, whose classes "
            f"begin with {classifier.classes[0]['label']!r}"
        )
    right = None if real_labels is None else read_real_labels(real_labels, classes)

    queue = _Queue(images, label_of, right)
    metrics = Metrics(classes, bins)
    clock = _Clock()
    if progress:
        progress(0, images.count, [])
    for batch in file_batches(
        queue.files(), classifier.eval_transform, batch_size, workers
    ):
        labels, valid = queue.take(batch.errors)
        if len(batch.images):
            metrics.update(classifier.scores(batch.images, batch_size), labels, valid)
        clock.add(len(batch.paths))
        if progress:
            failed = [(name_of(file), error) for file, error in batch.unreadable]
            progress(queue.done, images.count, failed)
    if not metrics.count:
        raise ValueError(
            "Expected images that can be read and have a label. Received: "
            f"{images.count} images of {images.dataset}, {queue.unreadable} that "
            f"cannot be read and {queue.unlabelled} without a label"
        )

    if benchmark is None:
        benchmark = images.benchmark if right is None else "imagenet_real"
    known = benchmarks.BENCHMARKS.get(benchmark or "")
    accuracies: tuple[float | None, float | None] = (published, None)
    if published is None:
        weights = benchmarks.find_weights(classifier)
        accuracies = benchmarks.published(benchmark, weights)
    return EvaluationResult(
        description=classifier.description,
        origin=classifier.origin,
        dataset=dataset or (known.title if known else images.dataset),
        dataset_id=dataset or (known.dataset_id if known else images.dataset),
        split=images.split,
        benchmark=benchmark,
        transform=classifier.eval_transform,
        class_names=unique_names(classifier),
        metrics=metrics,
        unreadable=queue.unreadable,
        unlabelled=queue.unlabelled,
        images_per_second=clock.rate,
        published_top1=accuracies[0],
        published_top5=accuracies[1],
        versions={
            "keras_cvt": importlib.metadata.version("keras_cvt"),
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
        },
    )


def _classifier(model, class_names, threads):
    if isinstance(model, Classifier):
        if class_names is not None or threads is not None:
            raise ValueError(
                "A classifier has class names and threads already; pass them to "
                "`classifier_of`. "
                f"Received: class_names={class_names!r:.80}, threads={threads}"
            )
        classifier = model
    else:
        classifier = classifier_of(model, class_names=class_names, threads=threads)
    if classifier.description.classes < 2:
        raise ValueError(
            "Expected a classifier with a score for each of at least two classes. "
            f"Received: {classifier.description.name} with one output"
        )
    return classifier


class _Queue:
    """Images on their way through the reading threads, with what is right for them.

    Args:
        images: The images.
        label_of: The model's class of each of their classes.
        right: The reassessed labels of ImageNet's validation images, or None.
    """

    def __init__(
        self,
        images: LabelledImages,
        label_of: Sequence[int],
        right: Sequence[frozenset[int]] | None,
    ):
        self._images = images
        self._label_of = label_of
        self._right = right
        # Of the images that were handed out and are not done.
        self._waiting: collections.deque[tuple[int, frozenset[int] | None]]
        self._waiting = collections.deque()
        self.unreadable = 0
        self.unlabelled = 0
        self.done = 0

    def files(self) -> Iterator[ImageFile]:
        """Yield the images that have a label."""
        for file, index, name in self._images.read():
            valid = None
            if self._right is not None:
                valid = real_labels_of(name, self._right)
                if not valid:
                    self.unlabelled += 1
                    self.done += 1
                    continue
            self._waiting.append((self._label_of[index], valid))
            yield file

    def take(
        self, errors: Sequence[Exception | None]
    ) -> tuple[list[int], list[frozenset[int]] | None]:
        """Return the labels of the next images, without those that have an error."""
        items = [self._waiting.popleft() for _ in errors]
        kept = [i for i, error in zip(items, errors, strict=True) if error is None]
        self.unreadable += len(items) - len(kept)
        self.done += len(items)
        valid = [valid for _, valid in kept if valid is not None]
        return [label for label, _ in kept], None if self._right is None else valid


class _Clock:
    """Measures images a second after the first batch, in which networks compile."""

    def __init__(self):
        self._started: float | None = None
        self._images = 0
        self._seconds = 0.0

    def add(self, images: int) -> None:
        """Count the images of a batch that is done."""
        now = time.perf_counter()
        if self._started is None:
            self._started = now
            return
        self._images += images
        self._seconds = now - self._started

    @property
    def rate(self) -> float | None:
        """Images a second, or None if there was one batch only."""
        return self._images / self._seconds if self._seconds else None
