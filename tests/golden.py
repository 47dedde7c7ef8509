"""Outputs of the official code, and the formula of the weights that gave them."""

import json
from pathlib import Path

import numpy as np

from keras_cvt.config import CvTConfig, StageConfig
from keras_cvt.diagnostics import network
from keras_cvt.diagnostics.network import weight
from keras_cvt.models import build_model
from keras_cvt.preprocessing import EvalTransform

FOLDER = Path(__file__).parent / "data" / "golden"
# Names of the official `spec` that differ from the fields of `StageConfig`.
_NAMES = {"method": "projection", "kernel_qkv": "kernel_size"}
_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def load(name):
    with np.load(FOLDER / f"{name}.npz") as archive:
        arrays = dict(archive)
    return arrays, json.loads(str(arrays.pop("meta")))


def images(meta):
    return network.images(meta["input_shape_nhwc"], meta["seed"])


def config(meta):
    spec = {_NAMES.get(name, name): values for name, values in meta["config"].items()}
    stages = [
        StageConfig(**{name: values[i] for name, values in spec.items()})
        for i in range(len(spec["embed_dim"]))
    ]
    return CvTConfig(stages=tuple(stages))


def official_key(variable):
    *modules, leaf = variable.path.split("/")
    return ".".join(modules if leaf == "token" else [*modules, _LEAVES[leaf]])


def fill(model):
    """Assign to every variable the value of the formula for its official key."""
    for variable in model.variables:
        if "seed_generator" in variable.path:
            continue
        key = official_key(variable)
        shape = tuple(variable.shape)
        if len(shape) == 4 and "conv_proj" in key:
            height, width, channels, _ = shape
            value = weight(key, (channels, 1, height, width)).transpose(2, 3, 0, 1)
        elif len(shape) == 4:
            height, width, channels_in, channels_out = shape
            value = weight(key, (channels_out, channels_in, height, width))
            value = value.transpose(2, 3, 1, 0)
        elif len(shape) == 2:
            value = weight(key, shape[::-1]).T
        else:
            value = weight(key, shape)
        variable.assign(value)


def model(meta, **kwargs):
    built = build_model(
        config(meta),
        eval_transform=EvalTransform((224, 224), 0.875),
        input_shape=(None, None, meta["in_chans"]),
        classes=meta["num_classes"],
        include_preprocessing=False,
        **kwargs,
    )
    fill(built)
    return built


def write_reference(path, name="tiny_base"):
    """Write a case as a file for `convert --reference`, and return its path."""
    expected, meta = load(name)
    np.savez(path, input=images(meta), logits=expected["logits"])
    return path
