"""Parameters and multiply-adds of a configuration, by arithmetic alone.

The counting rule: one MAC is one multiplication with its addition, in convolutions,
linear layers and the two products of the attention. Biases, normalisations, softmax,
activations and pooling are not counted, as in the paper's tables.
"""

from dataclasses import dataclass

from keras_cvt import validation
from keras_cvt.config import CvTConfig, StageConfig


@dataclass(frozen=True)
class PartProfile:
    """Cost of one part of a network.

    Attributes:
        name: `"stage0"`, ..., `"norm"` or `"head"`.
        output: Shape of what comes out, without the batch axis.
        parameters: Trainable parameters.
        statistics: BatchNorm's running means and variances.
        macs: Multiply-adds for one image.
        attention_macs: Those of them in the attention's two products, which grow
            with the square of the image's area.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    statistics: int
    macs: int
    attention_macs: int = 0


def profile(
    config: CvTConfig,
    height: int = 224,
    width: int = 224,
    classes: int = 1000,
    channels: int = 3,
) -> list[PartProfile]:
    """Return what every part of a network costs for one image.

    Args:
        config: The configuration.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        classes: Number of classes of the head; 0 for none.
        channels: Number of image channels.

    Raises:
        ValueError: If the image is too small for the network.
    """
    parts = []
    for i, stage in enumerate(config.stages):
        height, width = (
            validation.conv_output_size(
                size, stage.patch_size, stage.patch_stride, stage.patch_padding
            )
            for size in (height, width)
        )
        parts.append(_stage(f"stage{i}", stage, channels, height, width))
        channels = stage.embed_dim
    if config.final_norm:
        parts.append(PartProfile("norm", (channels,), 2 * channels, 0, 0))
    if classes:
        parameters = (channels + 1) * classes
        parts.append(PartProfile("head", (classes,), parameters, 0, channels * classes))
    return parts


def parameters(config: CvTConfig, classes: int = 1000, channels: int = 3) -> int:
    """Return the number of trainable parameters."""
    # The image's size does not matter, as long as it is large enough.
    parts = profile(config, 1024, 1024, classes, channels)
    return sum(part.parameters for part in parts)


def macs(
    config: CvTConfig, height: int = 224, width: int = 224, classes: int = 1000
) -> int:
    """Return the multiply-adds for one RGB image; see the module for the rule."""
    return sum(part.macs for part in profile(config, height, width, classes))


def _stage(name, stage: StageConfig, channels, height, width) -> PartProfile:
    dim = stage.embed_dim
    positions = height * width
    embed_kernel = stage.patch_size**2 * channels * dim
    block_parameters, block_statistics, block_macs, attention_macs = _block(
        stage, height, width
    )
    token = dim if stage.cls_token else 0
    return PartProfile(
        name,
        (height, width, dim),
        # The embedding's kernel and bias, and its LayerNorm.
        embed_kernel + 3 * dim + token + stage.depth * block_parameters,
        stage.depth * block_statistics,
        embed_kernel * positions + stage.depth * block_macs,
        stage.depth * attention_macs,
    )


def _block(stage, height, width):
    dim = stage.embed_dim
    hidden = validation.mlp_hidden_dim(dim, stage.mlp_ratio)
    token = 1 if stage.cls_token else 0
    positions = height * width
    kv_positions = positions
    if stage.projection != "linear":
        output_size = {
            "dw_bn": validation.conv_output_size,
            "avg": validation.avg_output_size,
        }[stage.projection]
        rows, columns = (
            output_size(size, stage.kernel_size, stage.stride_kv, stage.padding_kv)
            for size in (height, width)
        )
        kv_positions = rows * columns
    queries, keys = positions + token, kv_positions + token

    inner = stage.num_heads * validation.head_dim(dim, stage.num_heads, stage.head_dim)
    linear_macs = dim * inner * (2 * queries + 2 * keys)  # q and proj, k and v
    attention_macs = 2 * queries * keys * inner
    mlp_macs = 2 * dim * hidden * queries
    parameters = 4 * dim  # two LayerNorms
    parameters += 4 * dim * inner + dim + (3 * inner if stage.qkv_bias else 0)
    parameters += 2 * dim * hidden + hidden + dim
    depthwise_macs = statistics = 0
    if stage.projection == "dw_bn":
        kernel = stage.kernel_size**2 * dim
        shared = 1 if stage.shared_kv else 2
        depthwise_macs = kernel * (positions + shared * kv_positions)
        parameters += (1 + shared) * (kernel + 2 * dim)
        statistics = (1 + shared) * 2 * dim
    total_macs = linear_macs + attention_macs + mlp_macs + depthwise_macs
    return parameters, statistics, total_macs, attention_macs
