"""The model that the options of a command describe."""

import argparse
import codecs
import collections
import io
import json
import os
import sys
from pathlib import Path

from keras_cvt import builders, conversion, zoo
from keras_cvt.checkpoints import sources
from keras_cvt.config import CvTConfig
from keras_cvt.data.folders import first_few
from keras_cvt.inference import Classifier, classifier_of
from keras_cvt.models import CvTModel


class _UnknownModelError(ValueError):
    """A name is none of the kinds of models that a command takes."""

    def __init__(self, name, exported=()):
        kinds = ["a config.json", "a .keras file", *exported]
        kinds[-2:] = [" or ".join(kinds[-2:])]
        super().__init__(
            f"Expected one of {', '.join(zoo.MODELS)}, or the path of "
            f"{', '.join(kinds)}. Received: {name}"
        )


def load_file(path: str) -> CvTModel:
    """Load a `.keras` file.

    Raises:
        ValueError: If there is no such file or it is not a model of keras_cvt.
    """
    try:
        return conversion.load_keras_file(path)
    except FileNotFoundError:
        raise _UnknownModelError(path) from None


def config(name: str) -> CvTConfig:
    """Return the configuration of a published model, a config.json or a `.keras` file.

    Raises:
        ValueError: If the name is none of these.
    """
    if name in zoo.MODELS:
        return zoo.MODELS[name]
    if conversion.is_keras_file(name):
        return load_file(name).cvt_config
    if not Path(name).is_file():
        raise _UnknownModelError(name)
    try:
        return CvTConfig.from_json(Path(name))
    except ValueError:
        # Of a damaged configuration, the error says what is wrong.
        if Path(name).suffix == ".json":
            raise
        raise _UnknownModelError(name) from None


def network(options: argparse.Namespace) -> CvTModel:
    """Return the model that `--model` and `--weights` describe, as it is.

    Raises:
        ValueError: If there is no such model or no such weights.
    """
    if not conversion.is_keras_file(options.model):
        return _build(options.model, options.weights or "imagenet")
    if options.weights is not None:
        raise ValueError("A .keras file has its own weights; leave out --weights.")
    loaded = load_file(options.model)
    if loaded.source_weights is None:
        loaded.source_weights = Path(options.model).name
    return loaded


def classifier(options: argparse.Namespace) -> CvTModel:
    """Return the classifier that `--model`, `--weights` and `--class-names` describe.

    It takes RGB of 0-255. If its head gives logits, it gets a softmax, or a sigmoid if
    it has one output.

    Raises:
        ValueError: If the model is not a classifier or takes other images.
    """
    model = network(options)
    described = model.description
    if not described.is_classifier:
        raise ValueError(
            "Expected a classifier, not a backbone, a regression model or a softmax "
            f"over one output. Received: {options.model}, whose outputs are "
            f"{described.outputs} ({described.activation}, {described.classes} outputs)"
        )
    described.check_photos()
    if described.score_activation is not None:
        model = model.with_activation(described.score_activation)
    if options.class_names:
        try:
            model.class_names = read_class_names(options.class_names)
        except ValueError as error:
            raise ValueError(f"{options.class_names}: {error}") from None
    return model


def any_classifier(options: argparse.Namespace) -> Classifier:
    """Return the classifier that the options describe; `--model` may be exported.

    Raises:
        ValueError: If there is no such model, or it is not a classifier of photos.
        ImportError: If the runtime of an exported file is missing.
    """
    model, class_names = model_or_exported(options)
    return classifier_of(model, class_names=class_names)


def model_or_exported(
    options: argparse.Namespace,
) -> tuple[CvTModel | str, list[str] | None]:
    """Return the classifier, or the path of an exported one and its class names.

    Raises:
        ValueError: If there is no such model, or it is not a classifier of photos.
    """
    if not _is_exported(options.model):
        try:
            return classifier(options), None
        except _UnknownModelError:
            raise _UnknownModelError(options.model, _exported_kinds()) from None
    if options.weights is not None:
        raise ValueError("An exported file has its own weights; leave out --weights.")
    names = read_class_names(options.class_names) if options.class_names else None
    return options.model, names


def _is_exported(name):
    if name in zoo.MODELS or conversion.is_keras_file(name) or not os.path.exists(name):
        return False
    # It takes time to import, and the commands without exported files do without.
    from keras_cvt.deploy import formats

    return any(record.recognises(Path(name)) for record in formats.FORMATS.values())


def _exported_kinds():
    """Return what the files are called that `export` writes and a runtime reads."""
    from keras_cvt.deploy import formats

    first, *others = [
        f"{record.title} ({record.suffix or 'a folder'})"
        for record in formats.FORMATS.values()
    ]
    return [f"an exported {first}", *others]


def _build(name, weights):
    # First, so that a wrong name costs no download.
    network = config(name)
    published = name if name in zoo.MODELS else None
    checkpoint = sources.resolve(weights, published, network)
    if checkpoint.classes is None:
        raise ValueError(f"Expected weights with a head. Received: {weights}")
    return builders.CvT(network, weights=checkpoint, classes=checkpoint.classes)


def read_class_names(path: str) -> list[str]:
    """Return the class names in a file: one on each line, or a JSON list.

    Lines without a name do not count. If classes share a name, a line says so.

    Raises:
        ValueError: If the text is neither UTF-8 nor UTF-16 with a byte order mark.
    """
    content = Path(path).read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 without its mark passes as UTF-8, with this character in it.
    if "\0" in text:
        raise ValueError(
            "Expected text in UTF-8, or in UTF-16 with a byte order mark. Save the "
            f"file in UTF-8. Received: {content[:40]!r}"
        )
    if text.lstrip().startswith("["):
        names = json.loads(text)
    else:
        lines = (line.strip() for line in io.StringIO(text, newline=None))
        names = [line for line in lines if line]
    counts = collections.Counter(map(str, names))
    doubled = [name for name, count in counts.items() if count > 1]
    if doubled:
        several = f"several classes are called {first_few(doubled)}"
        print(f"keras-cvt: {several}", file=sys.stderr)
    return names
