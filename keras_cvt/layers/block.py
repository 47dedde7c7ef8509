"""The convolutional Transformer block."""

import keras

from keras_cvt import validation
from keras_cvt.layers.attention import ConvAttention
from keras_cvt.layers.drop_path import DropPath
from keras_cvt.layers.mlp import MLP
from keras_cvt.layers.norms import LayerNorm
from keras_cvt.layers.quantizable import Quantizable


@keras.saving.register_keras_serializable(package="keras_cvt")
class ConvTransformerBlock(Quantizable):
    """LayerNorm and attention, LayerNorm and MLP, each with a residual.

    Args:
        embed_dim: Channels in and out.
        num_heads: Attention heads; must divide `embed_dim` without a `head_dim`.
        mlp_ratio: Hidden width of the MLP, as a multiple of `embed_dim`.
        qkv_bias: Whether the query, key and value layers have a bias.
        drop_rate: Dropout after the attention and twice in the MLP.
        attention_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth, on each branch before its residual.
        cls_token: Whether the first token is a class token.
        projection: `"dw_bn"`, `"avg"` or `"linear"`; see `ConvAttention`.
        kernel_size: Kernel size of the projections.
        padding_q: Padding of the query projection.
        padding_kv: Padding of the key and value projections.
        stride_q: Stride of the query projection; the residual needs 1.
        stride_kv: Stride of the key and value projections.
        head_dim: Channels of a head; None: `embed_dim / num_heads`.
        scale: `"embed_dim"` or `"head_dim"`; see `ConvAttention`.
        shared_kv: Whether keys and values share one `ConvProjection`.
        activation: Of the MLP: `"quick_gelu"` or `"gelu"`.
        init: `"trunc_norm"` or `"xavier"`.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        inputs: Tokens (B, T, embed_dim), T = height * width, plus 1 with a class
            token, rows first.
        height: Rows of the map that the tokens come from, by keyword.
        width: Columns of that map, by keyword.

    Returns:
        Tokens of the input's shape.

    Raises:
        ValueError: If an argument is out of range.

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
        **kwargs,
    ):
        super().__init__(**kwargs)
        validation.check_rate(drop_path_rate=drop_path_rate)
        self.norm1 = self._norm("norm1")
        self.attn = ConvAttention(
            embed_dim,
            num_heads,
            qkv_bias=qkv_bias,
            drop_rate=drop_rate,
            attention_drop_rate=attention_drop_rate,
            cls_token=cls_token,
            projection=projection,
            kernel_size=kernel_size,
            padding_q=padding_q,
            padding_kv=padding_kv,
            stride_q=stride_q,
            stride_kv=stride_kv,
            head_dim=head_dim,
            scale=scale,
            shared_kv=shared_kv,
            init=init,
            dtype=self.dtype_policy,
            name="attn",
        )
        self.drop_path = DropPath(
            drop_path_rate, dtype=self.dtype_policy, name="drop_path"
        )
        self.norm2 = self._norm("norm2")
        self.mlp = MLP(
            embed_dim,
            mlp_ratio=mlp_ratio,
            activation=activation,
            drop_rate=drop_rate,
            init=init,
            dtype=self.dtype_policy,
            name="mlp",
        )

    def _norm(self, name):
        return LayerNorm(dtype=self.dtype_policy, name=name)

    def linear_layers(self) -> list[keras.layers.Dense]:
        return [*self.attn.linear_layers(), *self.mlp.linear_layers()]

    def build(self, input_shape):
        layers = (self.norm1, self.attn, self.drop_path, self.norm2, self.mlp)
        for layer in layers:
            layer.build(input_shape)

    def call(self, inputs, height, width):
        x = self.attn(self.norm1(inputs), height=height, width=width)
        x = inputs + self.drop_path(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        attention = self.attn.get_config()
        for name in ("name", "dtype", "trainable"):
            attention.pop(name)
        return {
            **attention,
            # After it: the policies are those of the whole block.
            **super().get_config(),
            "mlp_ratio": self.mlp.mlp_ratio,
            "activation": self.mlp.activation,
            "drop_path_rate": self.drop_path.rate,
        }
