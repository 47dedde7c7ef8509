"""Small networks to explain, and their images."""

import keras
import numpy as np
from reference import randomise

import keras_cvt
from keras_cvt import StageConfig

FIRST = StageConfig(8, 1, 1, 7, 4, 2)
STAGES = {
    "class token": (FIRST, StageConfig(8, 3, 2, 3, 2, 1, cls_token=True)),
    "one block": (FIRST, StageConfig(8, 1, 2, 3, 2, 1, cls_token=True)),
    "pooled": (FIRST, StageConfig(8, 2, 2, 3, 2, 1)),
    "average pooling": (
        FIRST,
        StageConfig(8, 2, 2, 3, 2, 1, cls_token=True, projection="avg"),
    ),
    "linear": (
        FIRST,
        StageConfig(8, 2, 2, 3, 2, 1, cls_token=True, projection="linear"),
    ),
    "shared, stride 3": (
        FIRST,
        StageConfig(8, 2, 2, 3, 2, 1, cls_token=True, shared_kv=True, stride_kv=3),
    ),
    "class token in every stage": (
        StageConfig(8, 2, 1, 7, 4, 2, cls_token=True),
        StageConfig(8, 2, 2, 3, 2, 1, cls_token=True),
    ),
}


def network(name="class token", policy="float32", **arguments):
    """Return a network with random weights."""
    arguments = {"classes": 4, "input_shape": (None, None, 3)} | arguments
    if not arguments.get("include_top", True):
        del arguments["classes"]
    config = keras_cvt.CvTConfig(stages=STAGES[name])
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = keras_cvt.CvT(config, weights=None, **arguments)
    finally:
        keras.config.set_dtype_policy(before)
    randomise(model)
    return model


def images(count=2, height=40, width=56):
    rng = np.random.default_rng(1)
    return rng.uniform(0, 255, (count, height, width, 3)).astype("float32")
