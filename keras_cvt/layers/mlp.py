"""The two-layer perceptron of a Transformer block."""

import keras
from keras import ops

from keras_cvt import validation
from keras_cvt.layers import gradients, initializers
from keras_cvt.layers.quantizable import Quantizable
from keras_cvt.layers.shapes import size


def quick_gelu(x, training=None):
    """Return `x * sigmoid(1.702 x)`, the official `QuickGELU`."""
    if gradients.use_custom_gradients(training):
        return gradients.quick_gelu(x)
    # As SiLU it keeps one tensor less for the gradient.
    return ops.silu(1.702 * x) * (1 / 1.702)


def gelu(x, training=None):
    """Return the exact GELU, by the error function."""
    return ops.gelu(x, approximate=False)


_ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


@keras.saving.register_keras_serializable(package="keras_cvt")
class MLP(Quantizable):
    """Linear, activation, linear, with dropout after each.

    Args:
        embed_dim: Channels that come out.
        mlp_ratio: Hidden width as a multiple of `embed_dim`, rounded down.
        activation: `"quick_gelu"` or `"gelu"` (exact).
        drop_rate: Dropout after the activation and after the last layer.
        init: `"trunc_norm"` or `"xavier"`.
        **kwargs: Of `keras.layers.Layer`.

    Returns:
        Tokens (B, T, embed_dim) for tokens (B, T, C).

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        `Mlp` of the official `lib/models/cls_cvt.py`.
    """

    def __init__(
        self,
        embed_dim: int,
        mlp_ratio: float = 4.0,
        activation: str = "quick_gelu",
        drop_rate: float = 0.0,
        init: str = "trunc_norm",
        **kwargs,
    ):
        super().__init__(**kwargs)
        validation.check_int(1, embed_dim=embed_dim)
        validation.check_choice(validation.ACTIVATIONS, activation=activation)
        validation.check_rate(drop_rate=drop_rate)
        self.embed_dim = embed_dim
        self.mlp_ratio = mlp_ratio
        self.activation = activation
        self.drop_rate = drop_rate
        self.init = init
        hidden_dim = validation.mlp_hidden_dim(embed_dim, mlp_ratio)
        self.fc1 = keras.layers.Dense(
            hidden_dim,
            kernel_initializer=initializers.linear_kernel(init),
            dtype=self.dtype_policy,
            name="fc1",
        )
        self.fc2 = keras.layers.Dense(
            embed_dim,
            kernel_initializer=initializers.linear_kernel(init),
            dtype=self.dtype_policy,
            name="fc2",
        )
        self.dropout = keras.layers.Dropout(drop_rate, dtype=self.dtype_policy)

    def linear_layers(self) -> list[keras.layers.Dense]:
        return [self.fc1, self.fc2]

    def build(self, input_shape):
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.fc1.units))

    def call(self, inputs, training=None):
        # Two axes let TensorFlow fuse a Dense layer's product and bias.
        x = self.fc1(ops.reshape(inputs, (-1, inputs.shape[-1])))
        x = self.dropout(_ACTIVATIONS[self.activation](x, training))
        x = self.dropout(self.fc2(x))
        inner = (size(inputs, axis) for axis in range(1, len(inputs.shape) - 1))
        return ops.reshape(x, (-1, *inner, self.embed_dim))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.embed_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "mlp_ratio": self.mlp_ratio,
            "activation": self.activation,
            "drop_rate": self.drop_rate,
            "init": self.init,
        }
