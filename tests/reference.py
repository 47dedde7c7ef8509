"""Layers in plain numpy, and random weights for tests."""

import keras
import numpy as np


def randomise(layer, seed=0):
    """Assign random values, because zeros and ones would hide swapped weights."""
    rng = np.random.default_rng(seed)
    for variable in layer.weights:
        value = rng.normal(0, 0.3, variable.shape)
        if variable.path.endswith(("gamma", "moving_variance")):
            value = 1 + np.abs(value)
        variable.assign(value)


def to_numpy(outputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def windows(x, kernel_size, stride, padding):
    """Return the windows (B, H', W', C, K, K) of a symmetrically padded map."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view
    return view(x, (kernel_size, kernel_size), (1, 2))[:, ::stride, ::stride]


def layer_norm(x, gamma, beta, epsilon=1e-5):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return x * gamma + beta
