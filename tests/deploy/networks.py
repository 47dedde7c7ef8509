"""Small networks that between them take every path through a stage."""

import golden
import numpy as np
from PIL import Image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig

CONFIGS = {
    "as published": CvTConfig(
        stages=(
            StageConfig(16, 1, 1, 7, 4, 2),
            StageConfig(24, 2, 3, 3, 2, 1, cls_token=True, drop_path_rate=0.1),
        )
    ),
    "no class token, exact GELU": CvTConfig(
        stages=(StageConfig(16, 1, 2, 4, 4, 0), StageConfig(24, 1, 2, 3, 2, 1)),
        activation="gelu",
    ),
    "avg, class tokens everywhere": CvTConfig(
        stages=(
            StageConfig(16, 1, 1, 4, 4, 0, cls_token=True, projection="avg"),
            StageConfig(24, 2, 2, 3, 2, 1, cls_token=True, projection="avg"),
        )
    ),
    "linear": CvTConfig(
        stages=(
            StageConfig(16, 1, 2, 7, 4, 2, projection="linear", qkv_bias=False),
            StageConfig(24, 1, 2, 3, 2, 1, projection="linear", cls_token=True),
        )
    ),
    "one stage, kernel 5, no biases": CvTConfig(
        stages=(
            StageConfig(
                24,
                2,
                2,
                7,
                4,
                2,
                kernel_size=5,
                padding_q=2,
                padding_kv=2,
                qkv_bias=False,
                cls_token=True,
            ),
        )
    ),
    "dense keys": CvTConfig(
        stages=(
            StageConfig(16, 1, 1, 7, 4, 2, stride_kv=1),
            StageConfig(24, 1, 2, 3, 2, 1, stride_kv=1, padding_kv=0, mlp_ratio=1.5),
        )
    ),
    "heads of their own width, shared keys and values, no norm": CvTConfig(
        stages=(
            StageConfig(
                16, 1, 1, 7, 4, 2, head_dim=12, scale="head_dim", shared_kv=True
            ),
            StageConfig(24, 2, 2, 3, 2, 1, head_dim=8, shared_kv=True, cls_token=True),
        ),
        activation="gelu",
        final_norm=False,
    ),
}

# Every projection, with and without class token, in the smallest network that has it.
PROJECTIONS = {
    f"{projection}, {'class token' if cls_token else 'no class token'}": CvTConfig(
        stages=(
            StageConfig(16, 1, 2, 7, 4, 2, projection=projection, cls_token=cls_token),
        )
    )
    for projection in ("dw_bn", "avg", "linear")
    for cls_token in (True, False)
}


def build(config, **kwargs):
    """Return a network whose weights and norm statistics are all random."""
    arguments = {"classes": 10, "classifier_activation": None} | kwargs
    model = keras_cvt.CvT(config, **arguments)
    golden.fill(model)
    return model


def images(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, shape).astype("float32")


def save_classifier(path):
    """Save a small classifier for images of 64 x 64 as `.keras`."""
    model = build(CONFIGS["as published"], classifier_activation="softmax")
    model.eval_transform = keras_cvt.preprocessing.EvalTransform((64, 64), 0.875)
    model.save(path)


def save_photos(folder, sizes):
    """Save smooth images of the given (width, height) into a new folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate(sizes):
        image = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype="uint8"))
        image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
