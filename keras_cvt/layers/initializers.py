"""How the official code starts its weights, in Keras's terms."""

import math

from keras import initializers

from keras_cvt import validation


def linear_kernel(init: str) -> initializers.Initializer:
    """Return the initializer of a linear layer's kernel.

    The official `trunc_normal_` cuts at -2 and 2, a hundred of its standard
    deviations away, so its values are plainly normal. Keras's TruncatedNormal
    cuts at two standard deviations and would start 12 % narrower.
    """
    validation.check_choice(validation.INITS, init=init)
    if init == "xavier":
        return initializers.GlorotUniform()
    return initializers.RandomNormal(stddev=0.02)


def conv(fan_in: int) -> initializers.Initializer:
    """Return PyTorch's default for a convolution's kernel and bias.

    Kaiming uniform with a = sqrt 5 is uniform within 1 / sqrt(fan_in). `fan_in`
    is given, not derived, because Keras counts a depthwise kernel's differently.
    """
    bound = 1.0 / math.sqrt(fan_in)
    return initializers.RandomUniform(-bound, bound)
