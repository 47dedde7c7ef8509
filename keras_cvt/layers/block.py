"""The convolutional Transformer block."""

from typing import Any

import keras

from keras_cvt._utils import arguments, validation
from keras_cvt.layers.attention import ConvAttention
from keras_cvt.layers.drop_path import DropPath
from keras_cvt.layers.mlp import MLP
from keras_cvt.layers.norms import LayerNorm
from keras_cvt.layers.quantizable import Quantizable


@keras.saving.register_keras_serializable(package="keras_cvt")
class ConvTransformerBlock(Quantizable):
    """Attention and MLP, each after a LayerNorm and with a residual connection.

    Args:
        embed_dim: Number of channels of the input and the output.
        num_heads: Number of attention heads. Must divide `embed_dim`, unless
            `head_dim` is given.
        mlp_ratio: Width of the MLP's hidden layer, as a multiple of `embed_dim`.
            Defaults to `4.0`.
        qkv_bias: Whether the query, key and value layers have a bias. Defaults to
            `True`.
        drop_rate: Dropout rate after the attention and after both layers of the MLP,
            in [0, 1). Defaults to `0.0`.
        attention_drop_rate: Dropout rate of the attention weights, in [0, 1).
            Defaults to `0.0`.
        drop_path_rate: Rate of stochastic depth on both residual branches, in
            [0, 1). Defaults to `0.0`.
        cls_token: Whether the first token is a class token. Defaults to `False`.
        projection: Projection of the keys and values; see `ConvAttention`. Defaults
            to `"dw_bn"`.
        kernel_size: Kernel size of the projections. Defaults to `3`.
        padding_q: Zeros that the query projection adds on every side. Defaults to
            `1`.
        padding_kv: Zeros that the key and value projections add on every side.
            Defaults to `1`.
        stride_q: Stride of the query projection. With `"dw_bn"` it must be 1, so
            that the residual has the same shape. Defaults to `1`.
        stride_kv: Stride of the key and value projections. Defaults to `2`.
        head_dim: Number of channels of each head, or None for
            `embed_dim / num_heads`. Defaults to `None`.
        scale: Scale of the attention scores; see `ConvAttention`. Defaults to
            `"embed_dim"`.
        shared_kv: Whether keys and values share one `ConvProjection`. Defaults to
            `False`.
        activation: Activation of the MLP, `"quick_gelu"` or `"gelu"`. Defaults to
            `"quick_gelu"`.
        init: Initial values of the linear layers, `"trunc_norm"` or `"xavier"`.
            Defaults to `"trunc_norm"`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tokens (B, T, embed_dim), row by row. T is `height * width`, plus 1
            with a class token.
        height: Number of rows of the feature map that the tokens come from.
        width: Number of columns of that map.
        return_attention_scores: Whether to return the attention weights too. Defaults
            to `False`.

    Returns:
        Tokens (B, T, embed_dim). With `return_attention_scores=True`, a tuple of them
        and the attention weights; see `ConvAttention`.

    Raises:
        ValueError: If an argument is out of range, or if the number of tokens or
            channels does not fit.

    Example:
        >>> block = keras_cvt.layers.ConvTransformerBlock(384, 6, cls_token=True)
        >>> block(keras.ops.ones((1, 197, 384)), height=14, width=14).shape
        (1, 197, 384)

    Reference:
        Paper section 3.2 and figure 2 (b); `Block` of the official
        `lib/models/cls_cvt.py`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        cls_token: bool = False,
        projection: str = "dw_bn",
        kernel_size: int = 3,
        padding_q: int = 1,
        padding_kv: int = 1,
        stride_q: int = 1,
        stride_kv: int = 2,
        head_dim: int | None = None,
        scale: str = "embed_dim",
        shared_kv: bool = False,
        activation: str = "quick_gelu",
        init: str = "trunc_norm",
        **kwargs: Any,
    ):
        # The attention and the MLP have arguments of the same names.
        given = locals()
        super().__init__(**kwargs)
        validation.check_rate(drop_path_rate=drop_path_rate)
        self.norm1 = self._sublayer(LayerNorm, "norm1")
        self.attn = self._sublayer(
            ConvAttention, "attn", **arguments.select(ConvAttention.__init__, given)
        )
        self.drop_path = self._sublayer(DropPath, "drop_path", drop_path_rate)
        self.norm2 = self._sublayer(LayerNorm, "norm2")
        self.mlp = self._sublayer(MLP, "mlp", **arguments.select(MLP.__init__, given))

    def linear_layers(self) -> list[keras.layers.Dense]:
        return [*self.attn.linear_layers(), *self.mlp.linear_layers()]

    def build(self, input_shape):
        layers = (self.norm1, self.attn, self.drop_path, self.norm2, self.mlp)
        for layer in layers:
            layer.build(input_shape)

    def call(self, inputs, height, width, training=None, return_attention_scores=False):
        x = self._run(self.norm1, inputs, training)
        options = {"height": height, "width": width}
        if return_attention_scores:
            options["return_attention_scores"] = True
            x, weights = self._run(self.attn, x, training, **options)
        else:
            x = self._run(self.attn, x, training, **options)
        x = inputs + self._run(self.drop_path, x, training)
        y = self._run(self.mlp, self._run(self.norm2, x, training), training)
        x = x + self._run(self.drop_path, y, training)
        return (x, weights) if return_attention_scores else x

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(
        self, inputs, height, width, training=None, return_attention_scores=False
    ):
        tokens = super().compute_output_spec(inputs, height, width)
        if not return_attention_scores:
            return tokens
        size = {"height": height, "width": width}
        _, weights = self.attn.compute_output_spec(
            inputs, **size, return_attention_scores=True
        )
        return tokens, weights

    def get_config(self):
        return {
            **super().get_config(),
            **arguments.select(ConvAttention.__init__, vars(self.attn)),
            **arguments.select(MLP.__init__, vars(self.mlp)),
            "drop_path_rate": self.drop_path.rate,
        }
