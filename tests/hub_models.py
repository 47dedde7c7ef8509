"""Small classifiers to push, each filled so that nothing is hidden."""

import golden
import keras
import numpy as np

import keras_cvt
from keras_cvt.preprocessing import EvalTransform

LABELS = ["daisy", "rose", "tulip", "oak"]


def config(activation="gelu"):
    _, meta = golden.load("tiny_base")
    return golden.config(meta).with_overrides(activation=activation)


def classifier(activation="gelu", **arguments):
    model = keras_cvt.CvT(config(activation), classes=4, name="tiny", **arguments)
    golden.fill(model)
    model.eval_transform = EvalTransform((64, 64), None)
    return model


def images():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")


def outputs(model, x=None):
    """Return what a model computes, without `predict`, which first compiles it."""
    x = images() if x is None else x
    return keras.ops.convert_to_numpy(model(x, training=False))


def logits(model, x):
    """Return what the head gives before its activation."""
    head = model.get_layer("head")
    body = keras.Model(model.input, head.input)
    features = keras.ops.convert_to_numpy(body(x))
    return features @ np.asarray(head.kernel) + np.asarray(head.bias)
