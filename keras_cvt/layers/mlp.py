"""The two-layer perceptron of a Transformer block."""

from typing import Any

import keras
from keras import ops

from keras_cvt._utils import tensorflow_training, validation
from keras_cvt._utils.backend_operations import reshape
from keras_cvt.layers import kernels
from keras_cvt.layers.quantizable import Quantizable
from keras_cvt.layers.shapes import size


def quick_gelu(x: Any, training: bool | None = None) -> Any:
    """Return `x * sigmoid(1.702 x)`, the official `QuickGELU`."""
    if tensorflow_training.use_custom_gradients(training):
        return tensorflow_training.quick_gelu(x)
    # Written as SiLU, it keeps one tensor less for the gradient.
    return ops.silu(1.702 * x) * (1 / 1.702)


def gelu(x: Any, training: bool | None = None) -> Any:
    """Return the exact GELU, which uses the error function."""
    return ops.gelu(x, approximate=False)


_ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


@keras.saving.register_keras_serializable(package="keras_cvt")
class MLP(Quantizable):
    """Two linear layers with an activation between them, and dropout.

    Args:
        embed_dim: Number of channels of the output.
        mlp_ratio: Width of the hidden layer as a multiple of `embed_dim`, rounded
            down. Defaults to `4.0`.
        activation: `"quick_gelu"` or `"gelu"` (exact). Defaults to `"quick_gelu"`.
        drop_rate: Dropout rate after the activation and after the second linear
            layer, in [0, 1). Defaults to `0.0`.
        init: Initial values of the linear layers, `"trunc_norm"` or `"xavier"`.
            Defaults to `"trunc_norm"`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tokens (B, T, C) or a feature map (B, H, W, C).

    Returns:
        A tensor of the same shape with `embed_dim` channels.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> keras_cvt.layers.MLP(384)(keras.ops.ones((1, 197, 384))).shape
        (1, 197, 384)

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
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        validation.check_int(1, embed_dim=embed_dim)
        validation.check_choice(validation.ACTIVATIONS, activation=activation)
        validation.check_rate(drop_rate=drop_rate)
        self._store(MLP.__init__, locals())
        hidden_dim = validation.mlp_hidden_dim(embed_dim, mlp_ratio)
        self.fc1 = self._linear("fc1", hidden_dim)
        self.fc2 = self._linear("fc2", embed_dim)
        self.dropout = self._sublayer(keras.layers.Dropout, None, drop_rate)

    def linear_layers(self) -> list[keras.layers.Dense]:
        return [self.fc1, self.fc2]

    def build(self, input_shape):
        self.fc1.build(input_shape)
        self.fc2.build((*input_shape[:-1], self.fc1.units))

    def call(self, inputs, training=None):
        x = reshape(inputs, (-1, inputs.shape[-1]))
        quick = self.activation == "quick_gelu"
        if quick and kernels.scales_products(training, self.fc1, self.fc2):
            # x * sigmoid(1.702 x) = silu(1.702 x) / 1.702, in one pass.
            x = ops.silu(kernels.linear(self.fc1, x, alpha=1.702, beta=1.702))
            x = kernels.linear(self.fc2, self._drop(x), alpha=1 / 1.702)
        else:
            x = _ACTIVATIONS[self.activation](kernels.linear(self.fc1, x), training)
            x = kernels.linear(self.fc2, self._drop(x))
        x = self._drop(x)
        inner = (size(inputs, axis) for axis in range(1, len(inputs.shape) - 1))
        return reshape(x, (-1, *inner, self.embed_dim))

    def _drop(self, x):
        return self.dropout(x) if self.drop_rate else x

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.embed_dim)
