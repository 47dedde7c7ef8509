"""Initializers with the distributions of the official code."""

import math

from keras import initializers

from keras_cvt._utils import validation


def linear_kernel(init: str) -> initializers.Initializer:
    """Return the initializer of a linear layer's kernel.

    The official `trunc_normal_` truncates at -2 and 2, which is 100 standard
    deviations, so its values are normally distributed. Keras's TruncatedNormal
    truncates at 2 standard deviations, which would make them 12 % smaller.

    Args:
        init: `"trunc_norm"` (standard deviation 0.02) or `"xavier"` (Glorot uniform).

    Raises:
        ValueError: If `init` is something else.
    """
    validation.check_choice(validation.INITS, init=init)
    if init == "xavier":
        return initializers.GlorotUniform()
    return initializers.RandomNormal(stddev=0.02)


def conv(fan_in: int) -> initializers.Initializer:
    """Return PyTorch's default initializer of a convolution's kernel and bias.

    It is Kaiming uniform with a = sqrt(5): uniform within +-1 / sqrt(fan_in).

    Args:
        fan_in: Number of inputs of one output. Keras would count those of a depthwise
            kernel differently.
    """
    bound = 1.0 / math.sqrt(fan_in)
    return initializers.RandomUniform(-bound, bound)
