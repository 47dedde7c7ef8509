"""One stage of CvT: a convolutional token embedding and Transformer blocks."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_cvt._utils import arguments
from keras_cvt._utils.backend_operations import reshape
from keras_cvt.config import StageConfig
from keras_cvt.layers.block import ConvTransformerBlock
from keras_cvt.layers.class_token import ClassToken, split_token
from keras_cvt.layers.conv_embed import ConvEmbed
from keras_cvt.layers.quantizable import Quantizable
from keras_cvt.layers.shapes import size


@keras.saving.register_keras_serializable(package="keras_cvt")
class ConvTransformerStage(Quantizable):
    """A convolutional token embedding followed by Transformer blocks.

    Args:
        embed_dim: Number of channels of the stage's tokens.
        depth: Number of blocks.
        num_heads: Number of attention heads. Must divide `embed_dim`, unless
            `head_dim` is given.
        patch_size: Kernel size of the embedding, in pixels of the image or positions
            of the map.
        patch_stride: Stride of the embedding.
        patch_padding: Zeros added on every side before the embedding.
        mlp_ratio: Width of the MLPs' hidden layer, as a multiple of `embed_dim`.
            Defaults to `4.0`.
        qkv_bias: Whether the query, key and value layers have a bias. Defaults to
            `True`.
        drop_rate: Dropout rate after the embedding, the attention and both layers of
            the MLP, in [0, 1). Defaults to `0.0`.
        attention_drop_rate: Dropout rate of the attention weights, in [0, 1).
            Defaults to `0.0`.
        drop_path_rate: Rate of stochastic depth of the last block, in [0, 1). Block
            `i` has `drop_path_rate * i / (depth - 1)`. Defaults to `0.0`.
        cls_token: Whether the stage adds a class token. Defaults to `False`.
        projection: Projection of the keys and values; see `ConvAttention`. Defaults
            to `"dw_bn"`.
        kernel_size: Kernel size of the projections. Defaults to `3`.
        padding_q: Zeros that the query projection adds on every side. Defaults to
            `1`.
        padding_kv: Zeros that the key and value projections add on every side.
            Defaults to `1`.
        stride_q: Stride of the query projection. With `"dw_bn"` it must be 1.
            Defaults to `1`.
        stride_kv: Stride of the key and value projections. Defaults to `2`.
        head_dim: Number of channels of each head, or None for
            `embed_dim / num_heads`. Defaults to `None`.
        scale: Scale of the attention scores; see `ConvAttention`. Defaults to
            `"embed_dim"`.
        shared_kv: Whether keys and values share one `ConvProjection`. Defaults to
            `False`.
        embed_drop_rate: Dropout rate after the embedding, or None for `drop_rate`.
            Defaults to `None`.
        activation: Activation of the MLPs, `"quick_gelu"` or `"gelu"`. Defaults to
            `"quick_gelu"`.
        init: Initial values of the linear layers, `"trunc_norm"` or `"xavier"`.
            Defaults to `"trunc_norm"`.
        final_norm: Does not change the stage. It is the `final_norm` of the network's
            `keras_cvt.CvTConfig`. A backbone has no layer that shows it, so the
            stages store it. Defaults to `True`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: An image or a feature map (B, H, W, C).
        intermediates: Names of `intermediate_names`. Defaults to `()`.

    Returns:
        A feature map (B, H', W', embed_dim), where H' and W' are those of the
        embedding; see `ConvEmbed`. With `cls_token=True`, a tuple of that map and the
        class token (B, embed_dim). With `intermediates`, a tuple of these outputs and
        a dict of the named tensors.

    Raises:
        ValueError: If an argument is out of range, the input is too small or a name
            is unknown.

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

    # Whether its variables are those of `keras_cvt.deploy.fuse`.
    fused = False

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
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        # `StageConfig` has arguments of the same names, and checks them.
        self.config = StageConfig(**arguments.select(StageConfig.__init__, locals()))
        self.activation = activation
        self.init = init
        self.final_norm = final_norm

        self.patch_embed = self._sublayer(
            ConvEmbed, "patch_embed", embed_dim, patch_size, patch_stride, patch_padding
        )
        if cls_token:
            self.cls_token = self._sublayer(ClassToken, "cls_token")
        self.dropout = self._sublayer(
            keras.layers.Dropout,
            None,
            drop_rate if embed_drop_rate is None else embed_drop_rate,
        )
        blocks = [self._block(i) for i in range(depth)]
        self.blocks = self._sublayer(BlockStack, "blocks", blocks)

    def _block(self, i):
        rate = self.config.drop_path_rate * i / max(self.config.depth - 1, 1)
        values = vars(self) | vars(self.config) | {"drop_path_rate": rate}
        own = arguments.select(ConvTransformerBlock.__init__, values)
        return self._sublayer(ConvTransformerBlock, str(i), **own)

    def linear_layers(self) -> list[keras.layers.Dense]:
        return [
            layer for block in self.blocks.blocks for layer in block.linear_layers()
        ]

    @property
    def intermediate_names(self) -> list[str]:
        """The names of what `call(..., intermediates=)` can return besides.

        - `"embed"`: the map (B, H', W', embed_dim) of the embedding.
        - `"blocks/0"`, ...: the tokens (B, T, embed_dim) of each block, the class
          token first.
        - `"blocks/0/attention"`, ...: the attention weights (B, num_heads, T, S) of
          each block; see `ConvAttention`.
        """
        blocks = [f"blocks/{i}" for i in range(self.config.depth)]
        return ["embed"] + [
            name for block in blocks for name in (block, f"{block}/attention")
        ]

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        tokens_shape = (None, None, self.config.embed_dim)
        self.patch_embed.build(input_shape)
        if self.config.cls_token:
            self.cls_token.build(tokens_shape)
        self.blocks.build(tokens_shape)

    def call(self, inputs, intermediates=()):
        x = embedded = self.patch_embed(inputs)
        height, width = size(x, 1), size(x, 2)
        x = reshape(x, (-1, height * width, self.config.embed_dim))
        if self.config.cls_token:
            x = self.cls_token(x)
        x = self.dropout(x)
        if not intermediates:
            x = self.blocks(x, height=height, width=width)
            return self.as_outputs(x, height, width)
        self.check_intermediates(intermediates)
        options = {"height": height, "width": width, "intermediates": intermediates}
        x, found = self.blocks(x, **options)
        found = {name: {"embed": embedded, **found}[name] for name in intermediates}
        return self.as_outputs(x, height, width), found

    def check_intermediates(self, names: Sequence[str]) -> None:
        """Raise ValueError unless these are names of `intermediate_names`."""
        unknown = [name for name in names if name not in self.intermediate_names]
        if self.fused or unknown:
            known = "none, as it is fused" if self.fused else self.intermediate_names
            raise ValueError(
                f"Expected intermediates of {self.name!r}: {known}. "
                f"Received: {list(names)}"
            )

    def as_outputs(self, x: Any, height: Any, width: Any) -> Any:
        """Return the tokens (B, T, embed_dim) of the last block as the outputs."""
        map_shape = (-1, height, width, self.config.embed_dim)
        if not self.config.cls_token:
            return reshape(x, map_shape)
        token, tokens = split_token(x)
        return reshape(tokens, map_shape), token[:, 0]

    def compute_output_shape(self, input_shape):
        map_shape = self.patch_embed.compute_output_shape(input_shape)
        if self.config.cls_token:
            return map_shape, (map_shape[0], map_shape[-1])
        return map_shape

    def compute_output_spec(self, inputs, intermediates=()):
        outputs = super().compute_output_spec(inputs)
        if not intermediates:
            return outputs
        self.check_intermediates(intermediates)
        embedded = self.patch_embed.compute_output_spec(inputs)
        batch, height, width, channels = embedded.shape
        known = None not in (height, width)
        length = height * width + self.config.cls_token if known else None
        tokens = keras.KerasTensor((batch, length, channels), self.compute_dtype)
        found = {"embed": embedded}
        for i, block in enumerate(self.blocks.blocks):
            found[f"blocks/{i}"], found[f"blocks/{i}/attention"] = (
                block.compute_output_spec(
                    tokens, height, width, return_attention_scores=True
                )
            )
        return outputs, {name: found[name] for name in intermediates}

    def get_config(self):
        return {
            **super().get_config(),
            **vars(self.config),
            "activation": self.activation,
            "init": self.init,
            "final_norm": self.final_norm,
        }


class BlockStack(keras.layers.Layer):
    """The blocks of one stage, in sequence.

    It gives variables paths like the official keys:
    `stage2/blocks/3/attn/proj_q/kernel`. It is not registered with Keras, because
    only a stage creates it.

    Args:
        blocks: The blocks, first to last.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tokens (B, T, C).
        height: Number of rows of the feature map that the tokens come from.
        width: Number of columns of that map.
        intermediates: Names of `ConvTransformerStage.intermediate_names`. Defaults
            to `()`.

    Returns:
        Tokens (B, T, C). With `intermediates`, a tuple of them and a dict of the named
        tensors that the blocks make.
    """

    def __init__(self, blocks: list[ConvTransformerBlock], **kwargs: Any):
        super().__init__(**kwargs)
        self.blocks = blocks

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)

    def call(self, inputs, height, width, intermediates=()):
        x, found = inputs, {}
        for i, block in enumerate(self.blocks):
            name = f"blocks/{i}"
            options = {"height": height, "width": width}
            if f"{name}/attention" in intermediates:
                x, found[f"{name}/attention"] = block(
                    x, **options, return_attention_scores=True
                )
            else:
                x = block(x, **options)
            if name in intermediates:
                found[name] = x
        return (x, found) if intermediates else x

    def compute_output_shape(self, input_shape):
        return input_shape
