"""Layers of a fused CvT: the same outputs with fewer operations, inference only."""

from typing import Any

import keras
from keras import ops

from keras_cvt._utils import validation
from keras_cvt.layers import ConvProjection, ConvTransformerStage, kernels
from keras_cvt.layers.mlp import gelu


class FusedNorm(keras.layers.Layer):
    """LayerNorm over the last axis, with or without its affine.

    It reads the tokens less often than Keras's layer, whose scale and offset are as
    large as the tokens.
    """

    def __init__(self, affine, **kwargs):
        super().__init__(**kwargs)
        self.affine = affine

    def build(self, input_shape):
        if self.affine:
            shape = (input_shape[-1],)
            self.gamma = self.add_weight(name="gamma", shape=shape)
            self.beta = self.add_weight(name="beta", shape=shape)

    def call(self, inputs):
        # Statistics are float32 even in half precision, as in Keras's layer.
        x = ops.cast(inputs, "float32")
        x = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
        x = x * ops.rsqrt(variance + 1e-5)
        if self.affine:
            x = x * ops.cast(self.gamma, x.dtype) + ops.cast(self.beta, x.dtype)
        return ops.cast(x, self.compute_dtype)


class FusedMLP(keras.layers.Layer):
    """MLP of a fused block. It takes tokens of norm2 without the affine.

    `"quick_gelu"` is computed as SiLU: its factor of 1.702 is part of both kernels.
    """

    def __init__(self, embed_dim, hidden_dim, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = activation
        self.fc1 = keras.layers.Dense(hidden_dim, dtype=self.dtype_policy, name="fc1")
        self.fc2 = keras.layers.Dense(embed_dim, dtype=self.dtype_policy, name="fc2")

    def build(self, input_shape):
        self.fc1.build((None, input_shape[-1]))
        self.fc2.build((None, self.fc1.units))

    def call(self, inputs):
        x = kernels.linear(self.fc1, ops.reshape(inputs, (-1, inputs.shape[-1])))
        x = ops.silu(x) if self.activation == "quick_gelu" else gelu(x)
        # -1 for the batch: an unknown size then needs no shape operators.
        x = kernels.linear(self.fc2, x)
        return ops.reshape(x, (-1, *ops.shape(inputs)[1:]))


class FusedAttention(keras.layers.Layer):
    """Attention of a fused block.

    BatchNorm is part of the depthwise kernels and their biases. The scale is part of
    `proj_q`. With `token_only`, only the class token is a query: the output is
    (B, 1, C).
    """

    def __init__(self, config, token_only=False, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.token_only = token_only
        self.head_dim = validation.head_dim(
            config.embed_dim, config.num_heads, config.head_dim
        )
        self.inner_dim = config.num_heads * self.head_dim
        dtype = self.dtype_policy
        size, stride, padding = config.kernel_size, config.stride_kv, config.padding_kv
        same = stride == 1 and 2 * padding == size - 1
        for letter in self.convolved():
            conv = keras.layers.DepthwiseConv2D(
                size,
                strides=1 if letter == "q" else stride,
                padding="same" if letter == "q" or same else "valid",
                data_format="channels_last",
                dtype=dtype,
                name=f"conv_{letter}",
            )
            setattr(self, f"conv_{letter}", conv)
        if config.projection == "avg":
            self.pool_kv = ConvProjection(
                "avg", size, stride, padding, dtype=dtype, name="pool_kv"
            )
        # The offset of norm1 becomes a bias.
        bias = config.qkv_bias or config.projection == "linear"
        for name in ("proj_q", "proj_k", "proj_v", "proj"):
            units, use_bias = self.inner_dim, bias
            if name == "proj":
                units, use_bias = config.embed_dim, True
            layer = keras.layers.Dense(units, use_bias=use_bias, dtype=dtype, name=name)
            setattr(self, name, layer)

    def convolved(self) -> list[str]:
        """Return which of "q", "k" and "v" (or "kv") have a convolution."""
        if self.config.projection != "dw_bn":
            return []
        letters = ["kv"] if self.config.shared_kv else ["k", "v"]
        return letters if self.token_only else ["q", *letters]

    def build(self, input_shape):
        channels = self.config.embed_dim
        for letter in self.convolved():
            getattr(self, f"conv_{letter}").build((None, None, None, channels))
        for linear in (self.proj_q, self.proj_k, self.proj_v):
            linear.build((None, channels))
        self.proj.build((None, self.inner_dim))

    def call(self, inputs, height, width):
        channels = self.config.embed_dim
        token, tokens = None, inputs
        if self.config.cls_token:
            token, tokens = inputs[:, :1], inputs[:, 1:]
        feature_map = ops.reshape(tokens, (-1, height, width, channels))
        # The map that each of "q", "k" and "v" (or "kv") comes from, as tokens.
        found = {
            letter: self._tokens(self._convolve(letter, feature_map), token)
            for letter in self.convolved()
        }
        k = v = found.get("kv", inputs)
        if self.config.projection == "avg":
            k = v = self._tokens(self.pool_kv(feature_map), token)
        k, v = found.get("k", k), found.get("v", v)
        q = token if self.token_only else found.get("q", inputs)

        q = self._heads(self.proj_q, q)
        k = self._heads(self.proj_k, k)
        v = self._heads(self.proj_v, v)
        length = ops.shape(q)[1]
        x = kernels.attention(q, k, v, 1.0, False)
        if x is None:
            q, k, v = (ops.transpose(x, (0, 2, 1, 3)) for x in (q, k, v))
            scores = ops.matmul(q, ops.swapaxes(k, -1, -2))  # (B, N, T, S)
            # Half precision cannot hold a softmax over thousands of keys.
            scores = ops.softmax(ops.cast(scores, "float32"), axis=-1)
            x = ops.matmul(ops.cast(scores, v.dtype), v)  # (B, N, T, D)
            x = ops.transpose(x, (0, 2, 1, 3))
        x = kernels.linear(self.proj, ops.reshape(x, (-1, self.inner_dim)))
        return ops.reshape(x, (-1, length, channels))

    def _convolve(self, letter, feature_map):
        config = self.config
        # The query's map keeps its size.
        padding = config.kernel_size // 2 if letter == "q" else config.padding_kv
        return kernels.conv(getattr(self, f"conv_{letter}"), feature_map, padding)

    def _tokens(self, feature_map, token):
        height, width = ops.shape(feature_map)[1:3]
        tokens = ops.reshape(feature_map, (-1, height * width, self.config.embed_dim))
        return tokens if token is None else ops.concatenate([token, tokens], axis=1)

    def _heads(self, linear, x):
        """Project (B, T, C) to (B, T, N, D)."""
        length, heads = ops.shape(x)[1], self.config.num_heads
        x = kernels.linear(linear, ops.reshape(x, (-1, self.config.embed_dim)))
        return ops.reshape(x, (-1, length, heads, self.head_dim))


class FusedBlock(keras.layers.Layer):
    """One block: norm1 and attention, then norm2 and MLP, each with a residual.

    The affine of norm2 is part of the MLP. The affine of norm1 is part of the linear
    projections, unless a convolution or pooling with padding comes between.
    """

    def __init__(self, config, activation, token_only=False, **kwargs):
        super().__init__(**kwargs)
        self.token_only = token_only
        dtype, channels = self.dtype_policy, config.embed_dim
        hidden_dim = validation.mlp_hidden_dim(channels, config.mlp_ratio)
        affine = config.projection != "linear"
        self.norm1 = FusedNorm(affine, dtype=dtype, name="norm1")
        self.attn = FusedAttention(config, token_only, dtype=dtype, name="attn")
        self.norm2 = FusedNorm(False, dtype=dtype, name="norm2")
        self.mlp = FusedMLP(channels, hidden_dim, activation, dtype=dtype, name="mlp")

    # A stage calls this.
    def linear_layers(self) -> list[keras.layers.Layer]:
        attn, mlp = self.attn, self.mlp
        return [attn.proj_q, attn.proj_k, attn.proj_v, attn.proj, mlp.fc1, mlp.fc2]

    def build(self, input_shape):
        for layer in (self.norm1, self.attn, self.norm2, self.mlp):
            layer.build(input_shape)

    def call(self, inputs, height, width):
        x = self.attn(self.norm1(inputs), height=height, width=width)
        x = x + (inputs[:, :1] if self.token_only else inputs)
        return x + self.mlp(self.norm2(x))


@keras.saving.register_keras_serializable(package="keras_cvt")
class FusedStage(ConvTransformerStage):
    """Stage for inference only, made by `keras_cvt.deploy.fuse`.

    Its variables are folded from those of a `ConvTransformerStage` and are frozen.

    Args:
        *args: Arguments of `ConvTransformerStage`.
        token_only: Whether the last block computes only the class token. Defaults to
            `False`.
        **kwargs: Arguments of `ConvTransformerStage`.

    Returns:
        The outputs of `ConvTransformerStage`. With `token_only`, only the class token
        (B, embed_dim).
    """

    fused = True

    def __init__(self, *args, token_only: bool = False, **kwargs):
        # Before the parent's `__init__`, which creates the blocks.
        self.token_only = token_only
        super().__init__(*args, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        self.trainable = False

    def _block(self, i):
        token_only = self.token_only and i == self.config.depth - 1
        options = {"dtype": self.dtype_policy, "name": str(i)}
        return FusedBlock(self.config, self.activation, token_only, **options)

    def as_outputs(self, x: Any, height: Any, width: Any) -> Any:
        return x[:, 0] if self.token_only else super().as_outputs(x, height, width)

    def compute_output_shape(self, input_shape):
        output_shape = super().compute_output_shape(input_shape)
        return output_shape[1] if self.token_only else output_shape

    def get_config(self):
        return {**super().get_config(), "token_only": self.token_only}
