"""A small classifier whose answers differ, and images to evaluate it on."""

import json

import keras
import numpy as np
from PIL import Image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt.preprocessing import EvalTransform

CONFIG = CvTConfig((StageConfig(8, 1, 1, 7, 4, 2, cls_token=True),))
NAMES = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu", "hen")


def network(names=NAMES, activation="softmax", classes=None):
    """Return a classifier that spreads its answers over its classes."""
    keras.utils.set_random_seed(0)
    classes = classes or len(names)
    model = keras_cvt.CvT(CONFIG, classes=classes, classifier_activation=activation)
    model.eval_transform = EvalTransform((16, 16), 0.8)
    spread(model)
    if names is not None:
        model.class_names = list(names)
    return model


def spread(model):
    rng = np.random.default_rng(1)
    for stage in model.stages:
        for weight in stage.trainable_weights:
            weight.assign(weight + rng.normal(0, 0.3, weight.shape))
    head = model.get_layer("head")
    head.kernel.assign(rng.normal(0, 1.5, head.kernel.shape))
    # No class is the answer to all images.
    size = model.eval_transform.image_size
    images = [np.array(picture(seed, size[::-1])) for seed in range(1000, 1100)]
    activation, head.activation = head.activation, keras.activations.linear
    mean = keras.ops.convert_to_numpy(model(np.array(images, "float32"))).mean(axis=0)
    head.activation = activation
    head.bias.assign(-mean)


def write_images(root, names=NAMES, count=6):
    """Write `count` pictures for each class; return the paths."""
    paths = []
    for label, name in enumerate(names):
        for i in range(count):
            number = count * label + i
            path = root / name / f"ILSVRC2012_val_{number + 1:08d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(number, (20 + label, 16 + i)).save(path, quality=95)
            paths.append(path)
    return paths


def picture(seed, size):
    """Return a picture of a few large patches of strong colours."""
    patches = np.random.default_rng(seed).choice([0, 255], (2, 2, 3)).astype("uint8")
    return Image.fromarray(patches).resize(size, Image.Resampling.NEAREST)


def scores_of(model, paths):
    """Return the model's own outputs for files (N, classes)."""
    images = keras_cvt.preprocess_input(list(paths), model)
    return model.predict(images, verbose=0)


def write_real(path, labels):
    path.write_text(json.dumps(labels))
    return path


def accuracies(scores, labels):
    ranking = np.argsort(-scores, axis=1)
    hits = ranking == np.asarray(labels)[:, None]
    return 100 * hits[:, 0].mean(), 100 * hits[:, :5].any(axis=1).mean()
