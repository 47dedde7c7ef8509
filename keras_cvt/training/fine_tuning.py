"""Freezing, layer-wise learning rates and LoRA, to fine-tune a trained network."""

import math

from keras_cvt._utils import validation
from keras_cvt.models import CvTModel

LORA_TARGETS = ("proj_q", "proj_v")
_LORA_LAYERS = ("proj_q", "proj_k", "proj_v", "proj", "fc1", "fc2")


def freeze_stages(model: CvTModel, count: int) -> None:
    """Freeze the first stages. The other stages, the norm and the head train.

    BatchNorm in a frozen stage uses its running statistics and does not change them,
    as in every frozen Keras layer. Compile the model afterwards.

    Args:
        model: A CvT. Freezing does not change its outputs.
        count: Number of stages to freeze, counted from the image; 0 unfreezes all.

    Raises:
        ValueError: If the model has fewer stages.
    """
    validation.check_int(0, count=count)
    if count > len(model.stages):
        raise ValueError(
            f"The model has {len(model.stages)} stages. Received: count={count}"
        )
    for i, stage in enumerate(model.stages):
        stage.trainable = i >= count


def layer_learning_rates(model: CvTModel, decay: float) -> dict[str, float]:
    """Return learning-rate multipliers that shrink towards the input.

    The head and the last norm have 1, the last block `decay`, the block before it
    `decay**2`, and so on. A stage's embedding and class token have the multiplier of
    its first block.

    Args:
        model: A CvT.
        decay: Factor from a block to the one before it, in (0, 1].

    Returns:
        Multipliers by the beginning of the variables' paths, for the optimizers of
        `keras_cvt.training`.

    Raises:
        ValueError: If `decay` is not in (0, 1].

    Example:
        ```python
        multipliers = keras_cvt.training.layer_learning_rates(model, 0.9)
        recipe.compile(model, 64, steps_per_epoch=100, multipliers=multipliers)
        ```

    Reference:
        ELECTRA (arXiv 2003.10555), section 3.2; BEiT (arXiv 2106.08254), section 2.4.
    """
    if isinstance(decay, bool) or not 0 < decay <= 1:
        raise ValueError(f"`decay` must be in (0, 1]. Received: decay={decay!r}")
    multipliers = {}
    depth = sum(stage.config.depth for stage in model.stages)
    for stage in model.stages:
        multipliers[f"{stage.path}/"] = decay**depth
        for block in stage.blocks.blocks:
            multipliers[f"{block.path}/"] = decay**depth
            depth -= 1
    return multipliers


def enable_lora(
    model: CvTModel,
    rank: int,
    targets: tuple[str, ...] = LORA_TARGETS,
    alpha: int | None = None,
) -> int:
    """Freeze the body and train two thin matrices beside each target's kernel.

    It calls `keras.layers.Dense.enable_lora` on the targets. The head and the last
    norm keep training. Compile the model afterwards. The matrices are saved and loaded
    with the model.

    Args:
        model: A CvT with its weights loaded.
        rank: Inner size of the pair of matrices.
        targets: Names of linear layers of every block: `"proj_q"`, `"proj_k"`,
            `"proj_v"`, `"proj"`, `"fc1"` or `"fc2"`. Defaults to
            `("proj_q", "proj_v")`.
        alpha: The update is scaled by `alpha / rank`. None sets it to `rank`. Defaults
            to `None`.

    Returns:
        Number of parameters that train now.

    Raises:
        ValueError: If a target is unknown or `rank` is not positive.

    Reference:
        "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.
    """
    validation.check_int(1, rank=rank)
    unknown = sorted(set(targets) - set(_LORA_LAYERS))
    if unknown or not targets:
        raise ValueError(
            f"`targets` must be among {_LORA_LAYERS}. Received: targets={targets!r}"
        )
    for stage in model.stages:
        stage.patch_embed.trainable = False
        if stage.config.cls_token:
            stage.cls_token.trainable = False
        for block in stage.blocks.blocks:
            _enable_lora_in_block(block, rank, targets, alpha)
    return sum(math.prod(v.shape) for v in model.trainable_variables)


def _enable_lora_in_block(block, rank, targets, alpha):
    attention, mlp = block.attn, block.mlp
    for layer in (block.norm1, block.norm2, *attention.conv_projections()):
        layer.trainable = False
    for name in _LORA_LAYERS:
        dense = getattr(attention if name.startswith("proj") else mlp, name)
        if name not in targets:
            dense.trainable = False
            continue
        dense.enable_lora(rank, lora_alpha=alpha)
        if dense.use_bias:
            dense.bias.trainable = False
