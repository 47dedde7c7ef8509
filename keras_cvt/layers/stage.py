"""One stage of CvT: an embedding and its Transformer blocks."""

import keras
from keras import ops

from keras_cvt.config import StageConfig
from keras_cvt.layers.block import ConvTransformerBlock
from keras_cvt.layers.class_token import ClassToken, split_token
from keras_cvt.layers.conv_embed import ConvEmbed
from keras_cvt.layers.quantizable import Quantizable
from keras_cvt.layers.shapes import size

_NOT_OF_A_BLOCK = (
    "depth",
    "patch_size",
    "patch_stride",
    "patch_padding",
    "embed_drop_rate",
)


@keras.saving.register_keras_serializable(package="keras_cvt")
class ConvTransformerStage(Quantizable):
    """A convolutional token embedding followed by Transformer blocks.

    Args:
        embed_dim: Channels of the stage's tokens.
        depth: Number of blocks.
        num_heads: Attention heads; must divide `embed_dim` without a `head_dim`.
        patch_size: Kernel size of the embedding.
        patch_stride: Stride of the embedding.
        patch_padding: Zeros added on every side before the embedding.
        activation: Of the MLPs: `"quick_gelu"` or `"gelu"`.
        init: `"trunc_norm"` or `"xavier"`.
        mlp_ratio: As in `keras_cvt.StageConfig`, like all that follow.
        qkv_bias: See `keras_cvt.StageConfig`.
        drop_rate: See `keras_cvt.StageConfig`.
        attention_drop_rate: See `keras_cvt.StageConfig`.
        drop_path_rate: Rate of the last block; block `i` has
            `drop_path_rate * i / (depth - 1)`.
        cls_token: Whether the stage adds a class token.
        projection: See `keras_cvt.StageConfig`.
        kernel_size: See `keras_cvt.StageConfig`.
        padding_q: See `keras_cvt.StageConfig`.
        padding_kv: See `keras_cvt.StageConfig`.
        stride_q: See `keras_cvt.StageConfig`.
        stride_kv: See `keras_cvt.StageConfig`.
        head_dim: See `keras_cvt.StageConfig`.
        scale: See `keras_cvt.StageConfig`.
        shared_kv: See `keras_cvt.StageConfig`.
        embed_drop_rate: See `keras_cvt.StageConfig`.
        final_norm: Of the whole network, see `keras_cvt.CvTConfig`: a backbone,
            which ends before that norm, remembers it here.
        **kwargs: Of `keras.layers.Layer`.

    Returns:
        For a map (B, H, W, C), a map (B, H', W', embed_dim); with a class token
        the pair of that map and the token, (B, embed_dim).

    Raises:
        ValueError: If an argument is out of range or the input too small.

    Example:
        >>> stage = keras_cvt.layers.ConvTransformerStage(
        ...     64, 1, 1, 7, 4, 2, cls_token=True
        ... )
        >>> feature_map, token = stage(keras.ops.ones((1, 224, 224, 3)))
        >>> feature_map.shape, token.shape
        ((1, 56, 56, 64), (1, 64))

    Reference:
        Paper section 3; `VisionTransformer` of the official
        `lib/models/cls_cvt.py`.
    """

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        num_heads: int,
        patch_size: int,
        patch_stride: int,
        patch_padding: int,
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
        embed_drop_rate: float | None = None,
        activation: str = "quick_gelu",
        init: str = "trunc_norm",
        final_norm: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # One record holds and checks the arguments, as in a whole network.
        self.config = StageConfig(
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            patch_size=patch_size,
            patch_stride=patch_stride,
            patch_padding=patch_padding,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop_rate=drop_rate,
            attention_drop_rate=attention_drop_rate,
            drop_path_rate=drop_path_rate,
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
            embed_drop_rate=embed_drop_rate,
        )
        self.activation = activation
        self.init = init
        self.final_norm = final_norm

        self.patch_embed = ConvEmbed(
            embed_dim,
            patch_size,
            patch_stride,
            patch_padding,
            dtype=self.dtype_policy,
            name="patch_embed",
        )
        if cls_token:
            self.cls_token = ClassToken(dtype=self.dtype_policy, name="cls_token")
        self.dropout = keras.layers.Dropout(
            drop_rate if embed_drop_rate is None else embed_drop_rate,
            dtype=self.dtype_policy,
        )
        self.blocks = BlockStack(
            [self._block(i) for i in range(depth)],
            dtype=self.dtype_policy,
            name="blocks",
        )

    def _block(self, i):
        fields = vars(self.config).copy()
        for name in _NOT_OF_A_BLOCK:
            fields.pop(name)
        rate = fields.pop("drop_path_rate") * i / max(self.config.depth - 1, 1)
        return ConvTransformerBlock(
            **fields,
            drop_path_rate=rate,
            activation=self.activation,
            init=self.init,
            dtype=self.dtype_policy,
            name=str(i),
        )

    def linear_layers(self) -> list[keras.layers.Dense]:
        return [
            layer for block in self.blocks.blocks for layer in block.linear_layers()
        ]

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        tokens_shape = (None, None, self.config.embed_dim)
        self.patch_embed.build(input_shape)
        if self.config.cls_token:
            self.cls_token.build(tokens_shape)
        self.blocks.build(tokens_shape)

    def call(self, inputs):
        x = self.patch_embed(inputs)
        height, width = size(x, 1), size(x, 2)
        x = ops.reshape(x, (-1, height * width, self.config.embed_dim))
        if self.config.cls_token:
            x = self.cls_token(x)
        x = self.blocks(self.dropout(x), height=height, width=width)
        return self._outputs(x, height, width)

    def _outputs(self, x, height, width):
        channels = self.config.embed_dim
        if not self.config.cls_token:
            return ops.reshape(x, (-1, height, width, channels))
        token, tokens = split_token(x)
        feature_map = ops.reshape(tokens, (-1, height, width, channels))
        return feature_map, token[:, 0]

    def compute_output_shape(self, input_shape):
        map_shape = self.patch_embed.compute_output_shape(input_shape)
        if self.config.cls_token:
            return map_shape, (map_shape[0], map_shape[-1])
        return map_shape

    def get_config(self):
        return {
            **super().get_config(),
            **vars(self.config),
            "activation": self.activation,
            "init": self.init,
            "final_norm": self.final_norm,
        }


class BlockStack(keras.layers.Layer):
    """The blocks of a stage, one after the other.

    It exists so that a variable's path reads like its official key:
    `stage2/blocks/3/attn/proj_q/kernel`. Only a stage makes one.
    """

    def __init__(self, blocks, **kwargs):
        super().__init__(**kwargs)
        self.blocks = blocks

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)

    def call(self, inputs, height, width):
        x = inputs
        for block in self.blocks:
            x = block(x, height=height, width=width)
        return x

    def compute_output_shape(self, input_shape):
        return input_shape
