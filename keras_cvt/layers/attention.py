"""Multi-head attention with convolutional projections."""

import keras
from keras import ops

from keras_cvt import validation
from keras_cvt.layers import initializers
from keras_cvt.layers.class_token import split_token
from keras_cvt.layers.conv_projection import ConvProjection
from keras_cvt.layers.quantizable import Quantizable
from keras_cvt.layers.shapes import size


@keras.saving.register_keras_serializable(package="keras_cvt")
class ConvAttention(Quantizable):
    """Self-attention whose queries, keys and values pass a `ConvProjection`.

    The class token, where there is one, skips the convolutions and BatchNorms
    but goes through the linear layers. The scores are scaled by
    `embed_dim ** -0.5`, whatever the number of heads, unless `scale` says otherwise.

    Args:
        embed_dim: Channels in and out.
        num_heads: Attention heads; must divide `embed_dim` without a `head_dim`.
        qkv_bias: Whether the query, key and value layers have a bias.
        drop_rate: Dropout of the output.
        attention_drop_rate: Dropout of the attention weights.
        cls_token: Whether the first token is a class token.
        projection: Of the keys and values: `"dw_bn"`, `"avg"` or `"linear"`. The
            query follows, but for `"avg"`, where it stays linear.
        kernel_size: Kernel size of the projections.
        padding_q: Padding of the query projection.
        padding_kv: Padding of the key and value projections.
        stride_q: Stride of the query projection.
        stride_kv: Stride of the key and value projections.
        head_dim: Channels of a head; None: `embed_dim / num_heads`.
        scale: `"embed_dim"`, or `"head_dim"`: a head's channels `** -0.5`.
        shared_kv: Whether keys and values share one `ConvProjection`.
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

    Example:
        >>> attention = keras_cvt.layers.ConvAttention(384, 6, cls_token=True)
        >>> attention(keras.ops.ones((1, 197, 384)), height=14, width=14).shape
        (1, 197, 384)

    Reference:
        Paper section 3.2; `Attention` of the official `lib/models/cls_cvt.py`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
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
        init: str = "trunc_norm",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.inner_dim = num_heads * validation.head_dim(embed_dim, num_heads, head_dim)
        validation.check_bool(
            qkv_bias=qkv_bias, cls_token=cls_token, shared_kv=shared_kv
        )
        validation.check_choice(validation.SCALES, scale=scale)
        validation.check_rate(
            drop_rate=drop_rate, attention_drop_rate=attention_drop_rate
        )
        validation.check_projections(
            projection, kernel_size, padding_q, padding_kv, stride_q, stride_kv
        )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.qkv_bias = qkv_bias
        self.drop_rate = drop_rate
        self.attention_drop_rate = attention_drop_rate
        self.cls_token = cls_token
        self.projection = projection
        self.kernel_size = kernel_size
        self.padding_q = padding_q
        self.padding_kv = padding_kv
        self.stride_q = stride_q
        self.stride_kv = stride_kv
        self.head_dim = head_dim
        self.scale = scale
        self.shared_kv = shared_kv
        self.init = init
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: embed_dim})

        projection_q = "linear" if projection == "avg" else projection
        self.conv_proj_q = self._conv_proj("q", projection_q, stride_q, padding_q)
        if shared_kv:
            self.conv_proj_kv = self._conv_proj("kv", projection, stride_kv, padding_kv)
        else:
            self.conv_proj_k = self._conv_proj("k", projection, stride_kv, padding_kv)
            self.conv_proj_v = self._conv_proj("v", projection, stride_kv, padding_kv)
        self.proj_q = self._linear("proj_q", self.inner_dim, qkv_bias)
        self.proj_k = self._linear("proj_k", self.inner_dim, qkv_bias)
        self.proj_v = self._linear("proj_v", self.inner_dim, qkv_bias)
        self.proj = self._linear("proj", embed_dim, True)
        self.attention_dropout = keras.layers.Dropout(
            attention_drop_rate, dtype=self.dtype_policy
        )
        self.dropout = keras.layers.Dropout(drop_rate, dtype=self.dtype_policy)

    def _conv_proj(self, letter, projection, stride, padding):
        return ConvProjection(
            projection,
            self.kernel_size,
            stride,
            padding,
            dtype=self.dtype_policy,
            name=f"conv_proj_{letter}",
        )

    def _linear(self, name, units, use_bias):
        return keras.layers.Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=initializers.linear_kernel(self.init),
            dtype=self.dtype_policy,
            name=name,
        )

    # A method: Keras names what it saves by the attributes that hold it.
    def conv_projections(self) -> list[ConvProjection]:
        """Return the projections of q, k and v, or of q and of both others."""
        if self.shared_kv:
            return [self.conv_proj_q, self.conv_proj_kv]
        return [self.conv_proj_q, self.conv_proj_k, self.conv_proj_v]

    def linear_layers(self) -> list[keras.layers.Dense]:
        return [self.proj_q, self.proj_k, self.proj_v, self.proj]

    def score_scale(self) -> float:
        """Return what the products of queries and keys are multiplied by."""
        head_dim = self.inner_dim // self.num_heads
        return (head_dim if self.scale == "head_dim" else self.embed_dim) ** -0.5

    def build(self, input_shape):
        if input_shape[-1] != self.embed_dim:
            raise ValueError(
                f"Expected tokens (B, T, {self.embed_dim}). "
                f"Received: input_shape={input_shape}"
            )
        for conv_proj in self.conv_projections():
            conv_proj.build((None, None, None, self.embed_dim))
        for linear in (self.proj_q, self.proj_k, self.proj_v):
            linear.build((None, None, self.embed_dim))
        self.proj.build((None, None, self.inner_dim))

    def call(self, inputs, height, width):
        self._check_length(inputs, height, width)
        if self.cls_token:
            token, tokens = split_token(inputs)
        else:
            token, tokens = None, inputs
        feature_map = ops.reshape(tokens, (-1, height, width, self.embed_dim))

        q = self._tokens(self.conv_proj_q(feature_map), token)
        if self.shared_kv:
            k = v = self._tokens(self.conv_proj_kv(feature_map), token)
        else:
            k = self._tokens(self.conv_proj_k(feature_map), token)
            v = self._tokens(self.conv_proj_v(feature_map), token)
        q = self._heads(self.proj_q, q)
        # Scaling the keys costs least: as a rule they are fewest.
        k = self._heads(self.proj_k, k) * self.score_scale()
        v = self._heads(self.proj_v, v)

        scores = ops.matmul(q, ops.swapaxes(k, -1, -2))  # (B, N, T, S)
        # Half precision cannot hold a softmax over thousands of keys.
        scores = ops.softmax(ops.cast(scores, "float32"), axis=-1)
        scores = self.attention_dropout(ops.cast(scores, v.dtype))
        x = ops.matmul(scores, v)
        if self.num_heads > 1:
            x = ops.transpose(x, (0, 2, 1, 3))
        x = self.proj(ops.reshape(x, (-1, self.inner_dim)))
        return self.dropout(ops.reshape(x, (-1, size(q, 2), self.embed_dim)))

    def _check_length(self, inputs, height, width):
        # Reshaping would spread another number of tokens over the batch, silently.
        length = inputs.shape[1]
        known = all(isinstance(size, int) for size in (length, height, width))
        if known and length != height * width + self.cls_token:
            raise ValueError(
                "Expected height * width tokens, and one more with a class token. "
                f"Received: inputs.shape={inputs.shape}, height={height}, "
                f"width={width}, cls_token={self.cls_token}"
            )

    def _tokens(self, feature_map, token):
        length = size(feature_map, 1) * size(feature_map, 2)
        tokens = ops.reshape(feature_map, (-1, length, self.embed_dim))
        return tokens if token is None else ops.concatenate([token, tokens], axis=1)

    def _heads(self, linear, tokens):
        """Project tokens (B, T, C) to heads (B, N, T, D)."""
        length, channels = size(tokens, 1), tokens.shape[-1]
        # On two axes TensorFlow fuses product and bias.
        x = linear(ops.reshape(tokens, (-1, channels)))
        head_dim = self.inner_dim // self.num_heads
        if self.num_heads == 1:
            return ops.reshape(x, (-1, 1, length, head_dim))
        x = ops.reshape(x, (-1, length, self.num_heads, head_dim))
        return ops.transpose(x, (0, 2, 1, 3))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "qkv_bias": self.qkv_bias,
            "drop_rate": self.drop_rate,
            "attention_drop_rate": self.attention_drop_rate,
            "cls_token": self.cls_token,
            "projection": self.projection,
            "kernel_size": self.kernel_size,
            "padding_q": self.padding_q,
            "padding_kv": self.padding_kv,
            "stride_q": self.stride_q,
            "stride_kv": self.stride_kv,
            "head_dim": self.head_dim,
            "scale": self.scale,
            "shared_kv": self.shared_kv,
            "init": self.init,
        }
