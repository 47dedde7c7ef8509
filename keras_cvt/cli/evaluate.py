"""The command `evaluate`."""

import argparse
import json
from pathlib import Path

import keras

from keras_cvt import conversion, training, zoo
from keras_cvt._utils.optional import require
from keras_cvt._utils.progress import Progress
from keras_cvt.checkpoints import sources
from keras_cvt.cli import loading
from keras_cvt.data.folders import printable
from keras_cvt.evaluation import evaluate, record
from keras_cvt.hub import folder
from keras_cvt.hub import loading as hub_loading
from keras_cvt.inference import Classifier, classifier_of
from keras_cvt.models import CvTModel


def run_evaluate(options: argparse.Namespace) -> int:
    """Measure the accuracy of a model; return the exit status."""
    # Before the model is loaded.
    if options.plot is not None:
        if options.plot.suffix != ".png":
            raise ValueError(
                f"Expected the path of a .png file to write. Received: {options.plot}"
            )
        require("matplotlib.figure", "train", "A plot")
    if options.write is not None:
        if options.precision not in (None, "float32"):
            raise ValueError(
                "Expected --write without --precision: a card tells the accuracy in "
                "float32."
            )
        folder.check_written(options.write)
    classifier = _classifier(options)
    if options.write is not None:
        folder.find_evaluated(options.write, classifier.description, classifier.origin)
    with Progress() as progress:

        def show(done, total, unreadable):
            for name, error in unreadable:
                progress.print(f"keras-cvt: skipped {name}: {error}", error=True)
            progress.update(done, total)

        result = evaluate(
            classifier,
            options.data,
            options.split,
            data_dir=options.data_dir,
            real_labels=options.real_labels,
            benchmark=options.benchmark,
            published=options.published,
            dataset=options.dataset,
            batch_size=options.batch_size,
            workers=options.workers,
            bins=options.bins,
            progress=show,
        )
    if options.json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        print(result.describe(options.worst))
    if options.plot is not None:
        result.plot(options.plot)
    if options.write is not None:
        record(result, options.write)
    if not options.json:
        for path in filter(None, (options.plot, options.write)):
            print(f"saved {printable(path)}")
    return 1 if result.agrees is False else 0


def _classifier(options) -> Classifier:
    if options.model is None:
        options.model = "cvt13" if options.write is None else str(options.write)
    policy = keras.config.dtype_policy()
    if options.precision is not None:
        training.set_precision(options.precision)
    try:
        model, names = _model(options)
    finally:
        keras.config.set_dtype_policy(policy)
    if options.write is not None and isinstance(model, CvTModel):
        used = {layer.compute_dtype for layer in model.layers}
        if used != {"float32"}:
            raise ValueError(
                "Expected --write with a model in float32: a card tells its accuracy. "
                f"Received: layers that compute in {', '.join(sorted(used))}"
            )
    if options.threads is not None and not isinstance(model, str):
        raise ValueError("Expected --threads with an exported file only.")
    return classifier_of(model, class_names=names, threads=options.threads)


def _model(options) -> tuple[CvTModel | str, list[str] | None]:
    if _is_repository(options.model):
        if options.weights is not None:
            raise ValueError("A folder has its own weights; leave out --weights.")
        names = options.class_names and loading.read_class_names(options.class_names)
        return hub_loading.build(sources.resolve(Path(options.model))), names
    model, names = loading.model_or_exported(options)
    has_own = isinstance(model, str) or conversion.is_keras_file(options.model)
    if has_own and options.precision is not None:
        raise ValueError(
            "A .keras file and an exported file have their own precision; leave out "
            "--precision."
        )
    return model, names


def _is_repository(name):
    """Tell whether this is a folder of a model as transformers and the Hub have it."""
    return name not in zoo.MODELS and (Path(name) / "config.json").is_file()
