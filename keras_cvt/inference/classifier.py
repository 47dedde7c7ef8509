"""A network of any kind behind one function: images to the scores of classes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cvt._utils import files, validation
from keras_cvt.conversion import load_keras_file
from keras_cvt.description import ModelDescription
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.features import describe_origin
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.images import PathLike
from keras_cvt.preprocessing.predictions import imagenet_classes


@dataclass(frozen=True, eq=False)
class Classifier:
    """A Keras model or an exported file that gives the scores of classes.

    `classifier_of` makes one.

    Attributes:
        description: The network's description.
        eval_transform: How images are resized and cropped, which
            `keras_cvt.preprocess_input(images, classifier)` does.
        classes: What is known of each class: `"label"`, and for ImageNet `"wnid"`.
        origin: What computes, as JSON can hold it: its name, its weights and a
            SHA-256. Two classifiers with the same origin compute the same.
        batch_size: Number of images per call if the network takes no other number.
        call: Takes images, float32 (B, height, width, 3), and returns the network's
            outputs (B, classes).
    """

    description: ModelDescription
    eval_transform: EvalTransform
    classes: tuple[dict[str, str], ...]
    origin: dict[str, Any]
    batch_size: int | None
    call: Callable[[np.ndarray], np.ndarray]

    def scores(self, images: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """Return the scores of images.

        Every call of the network has the same number of images, so that it compiles
        once. The last ones are repeated for it.

        Args:
            images: float32 (N, height, width, 3) of 0-255, from `preprocess_input`.
            batch_size: Images per call. A file for a fixed number takes that number.
                Defaults to `None`: all in one call.

        Returns:
            float32 (N, classes), probabilities. With logits, the softmax was taken, or
            the sigmoid of one output.
        """
        size = self.batch_size or batch_size or len(images)
        parts = [np.zeros((0, self.description.classes), "float32")]
        for start in range(0, len(images), size):
            part = images[start : start + size]
            missing = size - len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            scores = np.asarray(self.call(padded), "float32")[: len(part)]
            parts.append(_probabilities(scores, self.description.score_activation))
        return np.concatenate(parts)

    def best(self, scores: np.ndarray, top: int) -> list[list[dict[str, Any]]]:
        """Return the classes with the highest scores of each image.

        Args:
            scores: What `scores` returned, (N, classes).
            top: Number of classes.

        Returns:
            For each image a list, highest score first, of dicts with `"label"` and
            `"score"`, and for ImageNet `"wnid"`.
        """
        orders = best_classes(scores, top)
        return [
            [{**self.classes[i], "score": float(row[i])} for i in order]
            for row, order in zip(scores, orders, strict=True)
        ]


def best_classes(scores: np.ndarray, top: int) -> np.ndarray:
    """Return the indices of the highest scores (B, top), highest first."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :top]


def classifier_of(
    model: CvTModel | PathLike,
    *,
    class_names: Sequence[str] | None = None,
    threads: int | None = None,
) -> Classifier:
    """Return a classifier of photos.

    Args:
        model: A Keras model, the path of a `.keras` file, or the path of a file or
            folder that `keras_cvt.deploy.export` wrote, which need not be loaded with
            TensorFlow.
        class_names: A name for each class. Defaults to `None`: those of the model, or
            ImageNet's for 1000 classes.
        threads: Threads of the runtime of an exported file. Defaults to `None`: one
            for each processor.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If a `.keras` file is damaged or of another package.
        ValueError: If it is no classifier of RGB images of 0-255, or the class names
            do not fit it.
        ImportError: If the runtime of an exported file is missing.
    """
    if isinstance(model, CvTModel):
        return _of_model(model, class_names)
    path = Path(model)
    if path.suffix == ".keras":
        return _of_model(load_keras_file(path), class_names)
    return _of_file(path, class_names, threads)


def _of_model(model, class_names):
    description = _check(model.description, model.name)
    return Classifier(
        description,
        description.eval_transform,
        _describe_classes(description, class_names),
        describe_origin(model),
        None,
        model.predict_on_batch,
    )


def _of_file(path, class_names, threads):
    # Exported files need neither converters nor, mostly, TensorFlow.
    from keras_cvt.deploy import formats, metadata

    values = metadata.read(path)
    description = _check(ModelDescription.from_dict(values), path)
    transform = description.eval_transform.at_size(*description.image_size)
    runtime = formats.open_file(path, threads)
    written = formats.of_path(path).files(path)
    hashes = {file.name: files.sha256(file) for file in sorted(written)}
    return Classifier(
        description,
        transform,
        _describe_classes(description, class_names),
        {
            "model": description.name,
            "weights": description.source_weights,
            "format": values.get("format"),
            "quantization": values.get("quantization"),
            "files_sha256": hashes,
        },
        runtime.batch_size,
        lambda images: runtime.call(images)[0],
    )


def _check(description, name):
    if not description.is_classifier:
        raise ValueError(
            "Expected a classifier, not a backbone, a regression model or a softmax "
            f"over one output. Received: {os.fspath(name)}, whose outputs are "
            f"{description.outputs} ({description.activation}, {description.classes} "
            "outputs)"
        )
    description.check_photos()
    return description


def _describe_classes(description, class_names):
    if class_names is not None:
        names = validation.check_class_names(class_names, description.classes)
    else:
        names = description.class_names
    imagenet = imagenet_classes()
    unknown = names is None and description.classes == len(imagenet)
    if unknown or names == tuple(name for _, name in imagenet):
        return tuple({"wnid": wnid, "label": name} for wnid, name in imagenet)
    names = names or map("class {}".format, range(description.classes))
    return tuple({"label": name} for name in names)


def _probabilities(scores, activation):
    if activation == "softmax":
        shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)
    if activation == "sigmoid":
        return 0.5 + 0.5 * np.tanh(0.5 * scores)  # exp(-scores) may overflow
    return scores
