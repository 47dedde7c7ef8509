"""The class token."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_cvt")
class ClassToken(keras.layers.Layer):
    """Adds one learned token in front of the tokens of each image.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tokens (B, T, C).

    Returns:
        Tokens (B, 1 + T, C).

    Example:
        >>> keras_cvt.layers.ClassToken()(keras.ops.ones((2, 196, 384))).shape
        (2, 197, 384)

    Reference:
        Paper section 3.1; `cls_token` of the official `VisionTransformer`.
    """

    def build(self, input_shape):
        self.token = self.add_weight(
            name="token",
            shape=(1, 1, input_shape[-1]),
            # The official code truncates at +-2, which is 100 standard deviations.
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, inputs):
        shape = (ops.shape(inputs)[0], 1, inputs.shape[-1])
        return ops.concatenate([ops.broadcast_to(self.token, shape), inputs], axis=1)

    def compute_output_shape(self, input_shape):
        batch, tokens, channels = input_shape
        return (batch, None if tokens is None else tokens + 1, channels)


def split_token(x: Any) -> tuple[Any, Any]:
    """Return the class token (B, 1, C) and the other tokens of x (B, T, C)."""
    if x.shape[1] is None:
        return x[:, :1], x[:, 1:]
    # The gradient of `split` is one concatenation. Slices would pad and add.
    token, tokens = ops.split(x, [1], axis=1)
    return token, tokens
