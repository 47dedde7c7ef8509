"""Keras's norms over the channels, with PyTorch's constants."""

import keras
from keras import ops

from keras_cvt._utils import tensorflow_training
from keras_cvt.layers import kernels
from keras_cvt.layers.shapes import size


@keras.saving.register_keras_serializable(package="keras_cvt")
class LayerNorm(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` of the last axis, with PyTorch's epsilon.

    Args:
        epsilon: Number that is added to the variance. Defaults to `1e-5`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        A tensor of the input's shape.

    Reference:
        "Layer Normalization", arXiv 1607.06450.
    """

    def __init__(self, epsilon: float = 1e-5, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None):
        if not tensorflow_training.use_custom_gradients(training):
            outputs = kernels.layer_norm(self, inputs)
            return super().call(inputs) if outputs is None else outputs
        rows = _rows(inputs)
        gamma, beta = (ops.cast(v, rows.dtype) for v in (self.gamma, self.beta))
        rows = tensorflow_training.layer_norm(rows, gamma, beta, self.epsilon)
        return _as_inputs(self, rows, inputs)

    def get_config(self):
        return _config(super().get_config(), "epsilon")


@keras.saving.register_keras_serializable(package="keras_cvt")
class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` of the last axis, with PyTorch's constants.

    Like Keras's layer, it keeps a moving average of the batches' biased variance.
    PyTorch's is larger by n / (n - 1), where n is the number of positions in a batch.

    Args:
        momentum: Weight of the old statistics: 1 minus PyTorch's momentum. Defaults to
            `0.9`.
        epsilon: Number that is added to the variance. Defaults to `1e-5`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Returns:
        A tensor of the input's shape.

    Reference:
        "Batch Normalization", arXiv 1502.03167.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)
        # It computes in float32 at least: an input in float32 stays as it is.
        self.autocast = False

    def call(self, inputs, training=None):
        # A frozen layer normalises by its moving statistics.
        if not (training and self.trainable and kernels.batch_norm):
            return super().call(inputs, training=training)
        rows = _rows(inputs)
        gamma, beta = (ops.cast(v, rows.dtype) for v in (self.gamma, self.beta))
        rows, mean, variance = kernels.batch_norm(rows, gamma, beta, self.epsilon)
        self._update(self.moving_mean, mean)
        self._update(self.moving_variance, variance)
        return _as_inputs(self, rows, inputs)

    def _update(self, moving, new):
        kept = ops.cast(moving, new.dtype) * self.momentum
        moving.assign(kept + new * (1.0 - self.momentum))

    def get_config(self):
        return _config(super().get_config(), "momentum", "epsilon")


def _rows(inputs):
    """Return a map or tokens as (N, C), in float32 at least, as Keras's norms do."""
    rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
    return ops.cast(rows, keras.backend.result_type(rows.dtype, "float32"))


def _as_inputs(layer, rows, inputs):
    shape = (-1, *(size(inputs, axis) for axis in range(1, len(inputs.shape))))
    return ops.cast(ops.reshape(rows, shape), layer.compute_dtype)


def _config(keras_config, *own):
    return {name: keras_config[name] for name in ("name", "trainable", "dtype", *own)}
