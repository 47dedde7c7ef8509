"""The layers of a fused CvT: the same function with fewer passes, inference only."""

import keras
from keras import ops

from keras_cvt import validation
from keras_cvt.layers import ConvProjection, ConvTransformerStage
from keras_cvt.layers.mlp import gelu
from keras_cvt.layers.padding import pad_map


class FusedNorm(keras.layers.Layer):
    """LayerNorm over the last axis; with `affine=False` what comes before its affine.

    It passes over the tokens less often than Keras's, whose scale and offset are as
    large as the tokens themselves.
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
        # In half precision the statistics are float32's, as in Keras's layer.
        x = ops.cast(inputs, "float32")
        x = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
        x = x * ops.rsqrt(variance + 1e-5)
        if self.affine:
            x = x * ops.cast(self.gamma, x.dtype) + ops.cast(self.beta, x.dtype)
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


class FusedMLP(keras.layers.Layer):
    """The MLP of a fused block, of tokens that norm2 only standardised.

    `"quick_gelu"` runs as SiLU: its factor of 1.702 is part of both kernels.
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
        x = self.fc1(ops.reshape(inputs, (-1, inputs.shape[-1])))
        x = ops.silu(x) if self.activation == "quick_gelu" else gelu(x)
        # -1 for the batch: an unknown one costs no shape operators.
        return ops.reshape(self.fc2(x), (-1, *ops.shape(inputs)[1:]))

    def compute_output_shape(self, input_shape):
        return input_shape


class FusedAttention(keras.layers.Layer):
    """The attention of a fused block.

    BatchNorm is part of the depthwise kernels and their biases, the scale part of
    `proj_q`. With `token_only`, only the class token asks: (B, 1, C) comes out.
    """

    def __init__(self, config, token_only=False, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.token_only = token_only
        self.head_dim = validation.head_dim(
            config.embed_dim, config.num_heads, config.head_dim
        )
        self.inner_dim = config.num_heads * self.head_dim
        if config.projection == "dw_bn":
            if not token_only:
                self.conv_q = self._conv("conv_q", 1, config.padding_q)
            for name in self._kv_convs():
                conv = self._conv(name, config.stride_kv, config.padding_kv)
                setattr(self, name, conv)
        elif config.projection == "avg":
            self.pool_kv = ConvProjection(
                "avg",
                config.kernel_size,
                config.stride_kv,
                config.padding_kv,
                dtype=self.dtype_policy,
                name="pool_kv",
            )
        # norm1's offset comes as a bias.
        bias = config.qkv_bias or config.projection == "linear"
        self.proj_q = self._linear("proj_q", self.inner_dim, bias)
        self.proj_k = self._linear("proj_k", self.inner_dim, bias)
        self.proj_v = self._linear("proj_v", self.inner_dim, bias)
        self.proj = self._linear("proj", config.embed_dim, True)

    def _kv_convs(self):
        return ("conv_kv",) if self.config.shared_kv else ("conv_k", "conv_v")

    def _conv(self, name, stride, padding):
        same = stride == 1 and 2 * padding == self.config.kernel_size - 1
        return keras.layers.DepthwiseConv2D(
            self.config.kernel_size,
            strides=stride,
            padding="same" if same else "valid",
            data_format="channels_last",
            dtype=self.dtype_policy,
            name=name,
        )

    def _linear(self, name, units, use_bias):
        return keras.layers.Dense(
            units, use_bias=use_bias, dtype=self.dtype_policy, name=name
        )

    def build(self, input_shape):
        channels = self.config.embed_dim
        if self.config.projection == "dw_bn":
            if not self.token_only:
                self.conv_q.build((None, None, None, channels))
            for name in self._kv_convs():
                getattr(self, name).build((None, None, None, channels))
        for linear in (self.proj_q, self.proj_k, self.proj_v):
            linear.build((None, channels))
        self.proj.build((None, self.inner_dim))

    def call(self, inputs, height, width):
        channels = self.config.embed_dim
        token, tokens = None, inputs
        if self.config.cls_token:
            token, tokens = inputs[:, :1], inputs[:, 1:]
        feature_map = ops.reshape(tokens, (-1, height, width, channels))
        if self.config.projection == "dw_bn":
            convs = [getattr(self, name) for name in self._kv_convs()]
            found = [self._tokens(self._convolve(c, feature_map), token) for c in convs]
            k, v = found[0], found[-1]
        elif self.config.projection == "avg":
            k = v = self._tokens(self.pool_kv(feature_map), token)
        else:
            k = v = inputs
        if self.token_only:
            q = token
        elif self.config.projection == "dw_bn":
            q = self._tokens(self.conv_q(feature_map), token)
        else:
            q = inputs

        q = self._heads(self.proj_q, q)
        k = self._heads(self.proj_k, k)
        v = self._heads(self.proj_v, v)
        scores = ops.matmul(q, ops.swapaxes(k, -1, -2))  # (B, N, T, S)
        # Half precision cannot hold a softmax over thousands of keys.
        scores = ops.softmax(ops.cast(scores, "float32"), axis=-1)
        x = ops.matmul(ops.cast(scores, v.dtype), v)  # (B, N, T, D)
        length = ops.shape(x)[2]
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, self.inner_dim))
        return ops.reshape(self.proj(x), (-1, length, channels))

    def _convolve(self, conv, feature_map):
        if conv.padding == "valid":
            feature_map = pad_map(feature_map, self.config.padding_kv)
        return conv(feature_map)

    def _tokens(self, feature_map, token):
        height, width = ops.shape(feature_map)[1:3]
        tokens = ops.reshape(feature_map, (-1, height * width, self.config.embed_dim))
        return tokens if token is None else ops.concatenate([token, tokens], axis=1)

    def _heads(self, linear, x):
        """Project (B, T, C) to (B, N, T, D)."""
        length, heads = ops.shape(x)[1], self.config.num_heads
        x = linear(ops.reshape(x, (-1, self.config.embed_dim)))
        x = ops.reshape(x, (-1, length, heads, self.head_dim))
        return ops.transpose(x, (0, 2, 1, 3))

    def compute_output_shape(self, input_shape):
        batch, length, channels = input_shape
        return (batch, 1 if self.token_only else length, channels)


class FusedBlock(keras.layers.Layer):
    """One block: norm1 and attention, norm2 and MLP, each with a residual.

    norm2's affine is part of the MLP; norm1's is part of the linear projections
    where no convolution or pooling, padded with zeros, comes between.
    """

    def __init__(self, config, activation, token_only=False, **kwargs):
        super().__init__(**kwargs)
        self.token_only = token_only
        self.norm1 = FusedNorm(
            config.projection != "linear", dtype=self.dtype_policy, name="norm1"
        )
        self.attn = FusedAttention(
            config, token_only, dtype=self.dtype_policy, name="attn"
        )
        self.norm2 = FusedNorm(False, dtype=self.dtype_policy, name="norm2")
        self.mlp = FusedMLP(
            config.embed_dim,
            validation.mlp_hidden_dim(config.embed_dim, config.mlp_ratio),
            activation,
            dtype=self.dtype_policy,
            name="mlp",
        )

    # What a stage asks its blocks for.
    def linear_layers(self):
        attn, mlp = self.attn, self.mlp
        return [attn.proj_q, attn.proj_k, attn.proj_v, attn.proj, mlp.fc1, mlp.fc2]

    def build(self, input_shape):
        for layer in (self.norm1, self.attn, self.norm2, self.mlp):
            layer.build(input_shape)

    def call(self, inputs, height, width):
        x = self.attn(self.norm1(inputs), height=height, width=width)
        x = x + (inputs[:, :1] if self.token_only else inputs)
        return x + self.mlp(self.norm2(x))

    def compute_output_shape(self, input_shape):
        return self.attn.compute_output_shape(input_shape)


@keras.saving.register_keras_serializable(package="keras_cvt")
class FusedStage(ConvTransformerStage):
    """A stage for inference alone, made by `keras_cvt.deploy.fuse`.

    Its variables are folded from a `ConvTransformerStage`'s and are not trained.

    Args:
        *args: Of `ConvTransformerStage`.
        token_only: Whether the last block computes only the class token.
        **kwargs: Of `ConvTransformerStage`.

    Returns:
        As `ConvTransformerStage`; with `token_only` the class token alone,
        (B, embed_dim).
    """

    def __init__(self, *args, token_only: bool = False, **kwargs):
        # Before the parent's, which makes the blocks.
        self.token_only = token_only
        super().__init__(*args, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        self.trainable = False

    def _block(self, i):
        return FusedBlock(
            self.config,
            self.activation,
            token_only=self.token_only and i == self.config.depth - 1,
            dtype=self.dtype_policy,
            name=str(i),
        )

    def _outputs(self, x, height, width):
        if self.token_only:
            return x[:, 0]
        return super()._outputs(x, height, width)

    def compute_output_shape(self, input_shape):
        output_shape = super().compute_output_shape(input_shape)
        return output_shape[1] if self.token_only else output_shape

    def get_config(self):
        return {**super().get_config(), "token_only": self.token_only}
