"""The model that the options of a command describe."""

import argparse
import json
from pathlib import Path

import keras

from keras_cvt import builders, zoo
from keras_cvt.checkpoints import sources
from keras_cvt.config import CvTConfig
from keras_cvt.models import CvTModel


def is_keras_file(name: str) -> bool:
    """Tell whether a model's name is the path of a `.keras` file."""
    return name.endswith(".keras")


def load_file(path: str) -> CvTModel:
    """Load a `.keras` file.

    Raises:
        ValueError: If there is no such file or it is not a model of keras_cvt.
    """
    model = keras.models.load_model(path)
    if not isinstance(model, CvTModel):
        raise ValueError(f"Expected a model of keras_cvt. Received: {path}")
    return model


def config(name: str) -> CvTConfig:
    """Return the configuration of a published model, a config.json or a `.keras` file.

    Raises:
        ValueError: If the name is none of these.
    """
    if name in zoo.MODELS:
        return zoo.MODELS[name]
    if not Path(name).is_file():
        raise ValueError(
            f"Expected one of {', '.join(zoo.MODELS)}, or the path of a config.json or "
            f".keras file. Received: {name}"
        )
    if is_keras_file(name):
        return load_file(name).cvt_config
    return CvTConfig.from_json(Path(name))


def classifier(options: argparse.Namespace) -> CvTModel:
    """Return the classifier that `--model`, `--weights` and `--class-names` describe.

    It takes pixels of 0-255. If its head gives logits, it gets a softmax.

    Raises:
        ValueError: If the model is not a classifier or takes normalised images.
    """
    if is_keras_file(options.model):
        if options.weights is not None:
            raise ValueError("A .keras file has its own weights; leave out --weights.")
        model = load_file(options.model)
        if model.source_weights is None:
            model.source_weights = Path(options.model).name
    else:
        model = _build(options.model, options.weights or "imagenet")
    described = model.description
    if not described.is_classifier:
        raise ValueError(
            "Expected a classifier, not a backbone or a regression model. "
            f"Received: {options.model}, whose outputs are {described.outputs}"
        )
    if not described.include_preprocessing:
        raise ValueError(
            "The command line feeds pixels of 0-255. This model was built with "
            "`include_preprocessing=False` and takes normalised images. "
            f"Received: {options.model}"
        )
    if described.outputs == "logits":
        model = model.with_activation("softmax")
    if options.class_names:
        try:
            model.class_names = _read_class_names(options.class_names)
        except ValueError as error:
            raise ValueError(f"{options.class_names}: {error}") from None
    return model


def _build(name, weights):
    checkpoint = sources.resolve(weights, name if name in zoo.MODELS else None)
    if checkpoint.classes is None:
        raise ValueError(f"Expected weights with a head. Received: {weights}")
    return builders.CvT(config(name), weights=checkpoint, classes=checkpoint.classes)


def _read_class_names(path):
    text = Path(path).read_text(encoding="utf-8")
    return json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
