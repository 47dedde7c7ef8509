"""Parameters and MACs of a configuration, computed without building a network.

One MAC is one multiply-add in a convolution, a linear layer or one of the two products
of the attention. Biases, normalisations, softmax, activations and pooling are not
counted, as in the paper's tables.
"""

from dataclasses import dataclass

from keras_cvt._utils import validation
from keras_cvt.config import CvTConfig


@dataclass(frozen=True)
class PartProfile:
    """Cost of one part of a network.

    Attributes:
        name: `"stage0"`, ..., `"norm"` or `"head"`.
        output: Shape of the part's output, without the batch axis.
        parameters: Number of trainable parameters.
        statistics: Number of running means and variances of BatchNorm.
        macs: Number of MACs for one image.
        attention_macs: Share of `macs` in the two products of the attention. It grows
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
    """Return the cost of each part of a network for one image.

    Args:
        config: The configuration of the network.
        height: Height of the image in pixels. Defaults to `224`.
        width: Width of the image in pixels. Defaults to `224`.
        classes: Number of classes of the head; 0 for no head. Defaults to `1000`.
        channels: Number of image channels. Defaults to `3`.

    Returns:
        The stages, the final norm and the head, first to last.

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
    """Return the number of trainable parameters of a network.

    Args:
        config: The configuration of the network.
        classes: Number of classes of the head; 0 for no head. Defaults to `1000`.
        channels: Number of image channels. Defaults to `3`.

    Example:
        >>> keras_cvt.profile.parameters(keras_cvt.list_models()["cvt13"])
        19997480
    """
    # The number does not depend on the image size, which only has to be large enough.
    parts = profile(config, 1024, 1024, classes, channels)
    return sum(part.parameters for part in parts)


def macs(
    config: CvTConfig, height: int = 224, width: int = 224, classes: int = 1000
) -> int:
    """Return the number of multiply-accumulates (MACs) for one RGB image.

    Args:
        config: The configuration of the network.
        height: Height of the image in pixels. Defaults to `224`.
        width: Width of the image in pixels. Defaults to `224`.
        classes: Number of classes of the head; 0 for no head. Defaults to `1000`.

    Raises:
        ValueError: If the image is too small for the network.
    """
    return sum(part.macs for part in profile(config, height, width, classes))


def _stage(name, stage, channels, height, width):
    dim = stage.embed_dim
    token = 1 if stage.cls_token else 0
    kernel = (stage.kernel_size, stage.stride_kv, stage.padding_kv)
    rows, columns = (
        validation.projection_output_size(stage.projection, size, *kernel)
        for size in (height, width)
    )
    positions, kv_positions = height * width, rows * columns
    queries, keys = positions + token, kv_positions + token

    # One block.
    inner = stage.num_heads * validation.head_dim(dim, stage.num_heads, stage.head_dim)
    hidden = validation.mlp_hidden_dim(dim, stage.mlp_ratio)
    attention_macs = 2 * queries * keys * inner
    macs = attention_macs + dim * inner * (2 * queries + 2 * keys)  # q, proj, k and v
    macs += 2 * dim * hidden * queries
    parameters = 4 * dim  # two LayerNorms
    parameters += 4 * dim * inner + dim + (3 * inner if stage.qkv_bias else 0)
    parameters += 2 * dim * hidden + hidden + dim
    statistics = 0
    if stage.projection == "dw_bn":
        kernel = stage.kernel_size**2 * dim
        shared = 1 if stage.shared_kv else 2
        macs += kernel * (positions + shared * kv_positions)
        parameters += (1 + shared) * (kernel + 2 * dim)
        statistics = (1 + shared) * 2 * dim

    kernel = stage.patch_size**2 * channels * dim
    return PartProfile(
        name,
        (height, width, dim),
        # Kernel and bias of the embedding, its LayerNorm, the token and the blocks.
        kernel + 3 * dim + token * dim + stage.depth * parameters,
        stage.depth * statistics,
        kernel * positions + stage.depth * macs,
        stage.depth * attention_macs,
    )
