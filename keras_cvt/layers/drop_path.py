"""Stochastic depth."""

import keras
from keras import ops

from keras_cvt import validation
from keras_cvt.layers.shapes import size


@keras.saving.register_keras_serializable(package="keras_cvt")
class DropPath(keras.layers.Layer):
    """Drops whole samples of a residual branch (stochastic depth).

    In training each sample is multiplied by 0 with probability `rate`, and the others
    are divided by `1 - rate`, so that the expectation stays. Otherwise it is the
    identity. It belongs on a branch, before the residual is added.

    Args:
        rate: Probability of dropping a sample, in [0, 1).
        seed: Optional seed.
        **kwargs: Of `keras.layers.Layer`.

    Returns:
        A tensor of the input's shape (B, ...).

    Raises:
        ValueError: If `rate` is not in [0, 1).

    Example:
        >>> x = x + keras_cvt.layers.DropPath(0.1)(branch(x))

    Reference:
        Deep Networks with Stochastic Depth, arXiv 1603.09382; `DropPath` in the
        official `lib/models/cls_cvt.py`.
    """

    def __init__(self, rate: float = 0.0, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        validation.check_rate(rate=rate)
        self.rate = rate
        self.seed = seed
        if rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        shape = (size(inputs, 0),) + (1,) * (len(inputs.shape) - 1)
        # One factor a sample: dropout of the inputs would pass twice over all of them.
        # (Without `noise_shape`, Keras ignores the seed on PyTorch.)
        factors = keras.random.dropout(
            ops.ones(shape, inputs.dtype),
            self.rate,
            noise_shape=shape,
            seed=self.seed_generator,
        )
        return inputs * factors

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
