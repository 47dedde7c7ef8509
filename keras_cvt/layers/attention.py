"""Multi-head attention with convolutional projections."""

from typing import Any

import keras
from keras import ops

from keras_cvt._utils import validation
from keras_cvt._utils.backend_operations import reshape
from keras_cvt.layers import kernels
from keras_cvt.layers.class_token import split_token
from keras_cvt.layers.conv_projection import ConvProjection
from keras_cvt.layers.quantizable import Quantizable
from keras_cvt.layers.shapes import size


@keras.saving.register_keras_serializable(package="keras_cvt")
class ConvAttention(Quantizable):
    """Multi-head self-attention with a `ConvProjection` before each linear layer.

    The class token, if there is one, skips the convolutions and BatchNorms. It still
    passes the linear layers.

    Args:
        embed_dim: Number of channels of the input and the output.
        num_heads: Number of attention heads. Must divide `embed_dim`, unless
            `head_dim` is given.
        qkv_bias: Whether the query, key and value layers have a bias. Defaults to
            `True`.
        drop_rate: Dropout rate of the output, in [0, 1). Defaults to `0.0`.
        attention_drop_rate: Dropout rate of the attention weights, in [0, 1).
            Defaults to `0.0`.
        cls_token: Whether the first token is a class token. Defaults to `False`.
        projection: Projection of the keys and values; see `ConvProjection`. The
            query has the same, except that with `"avg"` it is `"linear"`. Defaults
            to `"dw_bn"`.
        kernel_size: Kernel size of the projections. Defaults to `3`.
        padding_q: Zeros that the query projection adds on every side. Defaults to
            `1`.
        padding_kv: Zeros that the key and value projections add on every side.
            Defaults to `1`.
        stride_q: Stride of the query projection. Defaults to `1`.
        stride_kv: Stride of the key and value projections. Defaults to `2`.
        head_dim: Number of channels of each head, or None for
            `embed_dim / num_heads`. Defaults to `None`.
        scale: `"embed_dim"` multiplies the scores by `embed_dim ** -0.5` for any
            number of heads. `"head_dim"` uses the channels of one head instead.
            Defaults to `"embed_dim"`.
        shared_kv: Whether keys and values share one `ConvProjection`. Defaults to
            `False`.
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
        and the attention weights (B, num_heads, T, S) before dropout, in float32. S is
        the number of positions of the keys' map, plus 1 with a class token, which
        comes first. The weights of a query sum to 1.

    Raises:
        ValueError: If an argument is out of range, or if the number of tokens or
            channels does not fit.

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
        **kwargs: Any,
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
        self._store(ConvAttention.__init__, locals())
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
        self.proj = self._linear("proj", embed_dim)
        dropout = keras.layers.Dropout
        self.attention_dropout = self._sublayer(dropout, None, attention_drop_rate)
        self.dropout = self._sublayer(dropout, None, drop_rate)

    def _conv_proj(self, letter, projection, stride, padding):
        name, kernel = f"conv_proj_{letter}", (self.kernel_size, stride, padding)
        return self._sublayer(ConvProjection, name, projection, *kernel)

    # A method, because Keras would save a property that returns layers.
    def conv_projections(self) -> list[ConvProjection]:
        """Return the projections of q, k and v; with `shared_kv`, of q and kv."""
        if self.shared_kv:
            return [self.conv_proj_q, self.conv_proj_kv]
        return [self.conv_proj_q, self.conv_proj_k, self.conv_proj_v]

    def linear_layers(self) -> list[keras.layers.Dense]:
        return [self.proj_q, self.proj_k, self.proj_v, self.proj]

    def score_scale(self) -> float:
        """Return the factor of the products of queries and keys."""
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

    def call(self, inputs, height, width, training=None, return_attention_scores=False):
        self._check_length(inputs, height, width)
        token, tokens = split_token(inputs) if self.cls_token else (None, inputs)
        feature_map = reshape(tokens, (-1, height, width, self.embed_dim))

        def project(conv_proj):
            return self._tokens(self._run(conv_proj, feature_map, training), token)

        q = project(self.conv_proj_q)
        if self.shared_kv:
            k = v = project(self.conv_proj_kv)
        else:
            k = project(self.conv_proj_k)
            v = project(self.conv_proj_v)
        q = self._heads(self.proj_q, q)
        k = self._heads(self.proj_k, k)
        v = self._heads(self.proj_v, v)
        dropped = training and self.attention_drop_rate
        x = weights = None
        if not (dropped or return_attention_scores):
            x = kernels.attention(q, k, v, self.score_scale(), training)
        if x is None:
            x, weights = self._attend(*map(self._by_head, (q, k, v)))
        x = kernels.linear(self.proj, reshape(x, (-1, self.inner_dim)))
        x = reshape(x, (-1, size(q, 1), self.embed_dim))
        x = self.dropout(x) if self.drop_rate else x
        return (x, weights) if return_attention_scores else x

    def _attend(self, q, k, v):
        """Return attention of (B, N, T, D) as (B, T, N, D), and its weights."""
        # There are usually fewer keys than queries or scores to scale.
        k = k * self.score_scale()
        scores = ops.matmul(q, ops.swapaxes(k, -1, -2))  # (B, N, T, S)
        # A softmax over thousands of keys needs more than half precision.
        weights = ops.softmax(ops.cast(scores, "float32"), axis=-1)
        scores = ops.cast(weights, v.dtype)
        if self.attention_drop_rate:
            scores = self.attention_dropout(scores)
        x = ops.matmul(scores, v)
        x = x if self.num_heads == 1 else ops.transpose(x, (0, 2, 1, 3))
        return x, weights

    def _check_length(self, inputs, height, width):
        # Otherwise `reshape` would move tokens to other images of the batch.
        length = inputs.shape[1]
        known = all(isinstance(n, int) for n in (length, height, width))
        if known and length != height * width + self.cls_token:
            raise ValueError(
                "Expected height * width tokens, and one more with a class token. "
                f"Received: inputs.shape={inputs.shape}, height={height}, "
                f"width={width}, cls_token={self.cls_token}"
            )

    def _tokens(self, feature_map, token):
        length = size(feature_map, 1) * size(feature_map, 2)
        tokens = reshape(feature_map, (-1, length, self.embed_dim))
        return tokens if token is None else ops.concatenate([token, tokens], axis=1)

    def _heads(self, linear, tokens):
        """Project tokens (B, T, C) to heads (B, T, N, D)."""
        length, channels = size(tokens, 1), tokens.shape[-1]
        x = kernels.linear(linear, reshape(tokens, (-1, channels)))
        head_dim = self.inner_dim // self.num_heads
        return reshape(x, (-1, length, self.num_heads, head_dim))

    def _by_head(self, x):
        """Return (B, T, N, D) as (B, N, T, D)."""
        if self.num_heads == 1:
            return reshape(x, (-1, 1, size(x, 1), self.inner_dim))
        return ops.transpose(x, (0, 2, 1, 3))

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(
        self, inputs, height, width, training=None, return_attention_scores=False
    ):
        tokens = super().compute_output_spec(inputs, height, width)
        if not return_attention_scores:
            return tokens
        keys = self.conv_projections()[-1].compute_output_shape(
            (None, height, width, self.embed_dim)
        )
        known = None not in keys[1:3]
        length = keys[1] * keys[2] + self.cls_token if known else None
        shape = (inputs.shape[0], self.num_heads, inputs.shape[1], length)
        return tokens, keras.KerasTensor(shape, "float32")
