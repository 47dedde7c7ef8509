"""Stochastic depth."""

from typing import Any

import keras
from keras import ops

from keras_cvt._utils import validation
from keras_cvt.layers.base import CvTLayer
from keras_cvt.layers.shapes import size


@keras.saving.register_keras_serializable(package="keras_cvt")
class DropPath(CvTLayer):
    """Stochastic depth: drops a residual branch for whole images of a batch.

    During training, each image's values are set to 0 with probability `rate` and
    divided by `1 - rate` otherwise, which keeps the expectation. Outside training the
    layer is the identity. Apply it to a branch before the residual is added.

    Args:
        rate: Probability of dropping the branch, in [0, 1). Defaults to `0.0`.
        seed: Seed of the random numbers. Defaults to `None`, a random seed.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: A tensor (B, ...).
        training: Whether to drop. Defaults to `False`.

    Returns:
        A tensor of the same shape.

    Raises:
        ValueError: If `rate` is not in [0, 1).

    Example:
        >>> x = x + keras_cvt.layers.DropPath(0.1)(branch(x))

    Reference:
        Deep Networks with Stochastic Depth, arXiv 1603.09382; `DropPath` in the
        official `lib/models/cls_cvt.py`.
    """

    def __init__(self, rate: float = 0.0, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        validation.check_rate(rate=rate)
        self._store(DropPath.__init__, locals())
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        shape = (size(inputs, 0),) + (1,) * (len(inputs.shape) - 1)
        # Dropout of one factor per image is cheaper than dropout of the inputs.
        # `noise_shape` is given because Keras ignores the seed without it on PyTorch.
        factors = keras.random.dropout(
            ops.ones(shape, inputs.dtype),
            self.rate,
            noise_shape=shape,
            seed=self.seed_generator,
        )
        return inputs * factors

    def compute_output_shape(self, input_shape):
        return input_shape
