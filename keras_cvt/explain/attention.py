"""Attention weights with their geometry, and where the class token looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_cvt._utils.gradients import untracked
from keras_cvt._utils.user_warnings import warn
from keras_cvt.explain import geometry, networks
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.arrays import to_numpy


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention weights of one block, with the meaning of rows and columns.

    `numpy.asarray` gives the weights.

    Attributes:
        weights: float32 (B, heads, T, S). Row `t` is how much query `t` reads of each
            key; it sums to 1.
        stage: Index of the stage.
        block: Index of the block in the stage.
        cls_token: Whether the first row and the first column are the class token's.
        query_grid: (h, w) of the other rows, row by row.
        key_grid: (h', w') of the other columns, row by row. It is smaller where the
            keys' projection has a stride.
    """

    weights: np.ndarray
    stage: int
    block: int
    cls_token: bool
    query_grid: tuple[int, int]
    key_grid: tuple[int, int]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.weights, dtype, copy=bool(copy) or dtype is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, heads, T, S)."""
        return self.weights.shape

    @property
    def rows(self) -> list[str | tuple[int, int]]:
        """What each query is: `"class token"`, or its (row, column) in the grid."""
        return self._names(self.query_grid)

    @property
    def columns(self) -> list[str | tuple[int, int]]:
        """What each key is: `"class token"`, or its (row, column) in the grid."""
        return self._names(self.key_grid)

    def _names(self, grid):
        return ["class token"] * self.cls_token + list(np.ndindex(*grid))

    @property
    def of_class_token(self) -> np.ndarray:
        """How much the class token reads of each position: (B, heads, h', w').

        Raises:
            ValueError: If the block has no class token.
        """
        if not self.cls_token:
            raise ValueError(
                "Expected a stage with a class token. "
                f"Received: stage {self.stage} without one"
            )
        weights = self.weights[:, :, 0, 1:]
        return weights.reshape(*weights.shape[:2], *self.key_grid)

    @property
    def of_positions(self) -> np.ndarray:
        """How much each position reads of each other: (B, heads, h, w, h', w')."""
        weights = self.weights[:, :, self.cls_token :, self.cls_token :]
        return weights.reshape(*weights.shape[:2], *self.query_grid, *self.key_grid)


def attention_maps(
    model: CvTModel, images: Any, stage: int = -1, block: int | None = None
) -> AttentionMaps | list[AttentionMaps]:
    """Return the attention weights of a block, or of all blocks of a stage.

    They are those of evaluation, without dropout. The model does not change.

    Args:
        model: A network of keras_cvt, of any configuration. It may be quantized, but
            not fused.
        images: (B, H, W, C) as the model takes them, of any size that it takes. For
            more images than fit into memory, call it for each batch: a block keeps
            B x heads x T x S numbers.
        stage: Index of the stage. Defaults to `-1`, the last.
        block: Index of the block in the stage, or None for all blocks. Defaults to
            `None`.

    Returns:
        An `AttentionMaps`, or with `block=None` a list of one for each block.

    Raises:
        TypeError: If the model is not a `CvTModel`.
        ValueError: If it is fused, if the images do not fit, or if there is no such
            stage or block.

    Example:
        >>> model = keras_cvt.CvT13(weights=None)
        >>> images = keras.ops.ones((1, 224, 224, 3))
        >>> maps = keras_cvt.explain.attention_maps(model, images, block=-1)
        >>> maps.shape, maps.query_grid, maps.key_grid
        ((1, 6, 197, 50), (14, 14), (7, 7))
    """
    networks.check(model, images)
    index = networks.check_index("stage", stage, len(model.stages))
    layer = model.stages[index]
    blocks: Sequence[int] = range(layer.config.depth)
    if block is not None:
        blocks = [networks.check_index("block", block, layer.config.depth)]
    embed = f"{layer.name}/embed"
    names = [f"{layer.name}/blocks/{i}/attention" for i in blocks]
    found = networks.intermediates(model, [embed, *names], images)
    height, width = found[embed].shape[1:3]
    keys = layer.blocks.blocks[0].attn.conv_projections()[-1]
    maps = [
        AttentionMaps(
            weights=to_numpy(found[name]).astype("float32"),
            stage=index,
            block=i,
            cls_token=layer.config.cls_token,
            query_grid=(height, width),
            key_grid=keys.compute_output_shape((None, height, width, None))[1:3],
        )
        for i, name in zip(blocks, names, strict=True)
    ]
    return maps if block is None else maps[0]


def class_token_map(model: CvTModel, images: Any, upsample: bool = True) -> np.ndarray:
    """Return how much the class token reads of each position, through all its blocks.

    This is attention rollout with residuals: from the last block of the last stage to
    the first, the heads' mean tells what a token reads of the others, and the residual
    what it keeps of itself. Each counts with its share of the squared norm: of the
    attention's output, and of the token that it is added to. CvT's keys have a coarser
    grid than its queries: a key's part goes to the positions around its middle.

    The map does not belong to one class. It says where the network reads, not what
    speaks for a class; see `grad_cam`.

    Args:
        model: A network of keras_cvt whose last stage has a class token. It may be
            quantized, but not fused.
        images: (B, H, W, C) as the model takes them, of any size that it takes.
        upsample: Whether to bring the map from the tokens' grid to the images' pixels,
            each token at the centre of what it sees. Defaults to `True`.

    Returns:
        float32 (B, H, W), or (B, h, w) of the last stage's tokens with
        `upsample=False`, whose values sum to 1 for each image.

    Raises:
        TypeError: If the model is not a `CvTModel`.
        ValueError: If it is fused, if the images do not fit, or if the last stage has
            no class token.

    Warns:
        UserWarning: If the class token of an image reads nothing. Its map is then 0.

    Reference:
        Abnar and Zuidema, "Quantifying Attention Flow in Transformers",
        arXiv 2005.00928, in which both parts count one half.
    """
    networks.check(model, images)
    stage = model.stages[-1]
    if not stage.config.cls_token:
        raise ValueError(
            "Expected a network whose last stage has a class token; `grad_cam` "
            f"explains any. Received: {model.name!r} without one"
        )
    blocks = stage.blocks.blocks
    inputs, grid, image_size = networks.block_inputs(model, stage, images)
    keys = blocks[0].attn.conv_projections()[-1]
    rows, columns = (geometry.key_shares(keys, size) for size in grid)
    # How much the class token reads of itself and of each position.
    read = np.zeros((len(images), 1 + grid[0] * grid[1]), "float32")
    read[:, 0] = 1
    for block, tokens in zip(blocks[::-1], inputs[-2::-1], strict=True):
        weights, kept, added = _read(block, tokens, grid)
        keys_read = np.einsum("bt,bts->bs", read * added, weights)
        on_keys = keys_read[:, 1:].reshape(-1, len(rows), len(columns))
        positions = (rows.T @ on_keys @ columns).reshape(len(read), -1)
        read = read * kept + np.concatenate([keys_read[:, :1], positions], axis=1)
    heat = read[:, 1:]
    total = heat.sum(axis=1, keepdims=True)
    if not total.all():
        warn(
            "The class token reads nothing; the map is 0. "
            f"Images {np.flatnonzero(total == 0).tolist()}."
        )
    heat = (heat / np.where(total > 0, total, 1)).reshape(-1, *grid)
    if not upsample:
        return heat
    heat = geometry.upsample(heat, model.cvt_config.stages, *image_size)
    return networks.at_size_of(images, model, heat)


def _read(block, tokens, grid):
    """Return what a block's tokens read of its keys, and what they keep of themselves.

    Returns:
        The heads' mean weights (B, T, S), and the shares (B, T) of the residual and of
        the attention's output, which sum to 1.
    """
    height, width = grid
    with untracked():
        added, weights = block.attn(
            block.norm1(tokens),
            height=height,
            width=width,
            training=False,
            return_attention_scores=True,
        )
    squares = [
        (to_numpy(x).astype("float32") ** 2).sum(axis=-1) for x in (tokens, added)
    ]
    total = np.maximum(sum(squares), np.finfo("float32").tiny)
    weights = to_numpy(weights).astype("float32").mean(axis=1)
    return weights, squares[0] / total, squares[1] / total
