"""Argument checks shared by the configuration and the layers."""

import math
from collections.abc import Mapping, Sequence, Set

ACTIVATIONS = ("quick_gelu", "gelu")
INITS = ("trunc_norm", "xavier")
PROJECTIONS = ("dw_bn", "avg", "linear")
SCALES = ("embed_dim", "head_dim")


def check_int(minimum: int, **arguments: int) -> None:
    """Raise ValueError unless every named argument is an int >= `minimum`."""
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError(
                f"`{name}` must be an integer of at least {minimum}. "
                f"Received: {name}={value!r}"
            )


def check_rate(**arguments: float) -> None:
    """Raise ValueError unless every named argument is in [0, 1)."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"`{name}` must be a number. Received: {name}={value!r}")
        if not 0.0 <= value < 1.0:
            raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={value!r}")


def check_non_negative(**arguments: float) -> None:
    """Raise ValueError unless every named argument is a finite number >= 0."""
    for name, value in arguments.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise ValueError(
                f"`{name}` must be a number of at least 0. Received: {name}={value!r}"
            )


def check_bool(**arguments: bool) -> None:
    """Raise ValueError unless every named argument is a bool."""
    for name, value in arguments.items():
        if not isinstance(value, bool):
            raise ValueError(
                f"`{name}` must be True or False. Received: {name}={value!r}"
            )


def check_choice(choices: tuple[str, ...], **arguments: str) -> None:
    """Raise ValueError unless every named argument is one of `choices`."""
    for name, value in arguments.items():
        if value not in choices:
            raise ValueError(
                f"`{name}` must be one of {', '.join(map(repr, choices))}. "
                f"Received: {name}={value!r}"
            )


def head_dim(embed_dim: int, num_heads: int, head_dim: int | None = None) -> int:
    """Return the channels of a head: `head_dim`, or an even share of `embed_dim`."""
    check_int(1, embed_dim=embed_dim, num_heads=num_heads)
    if head_dim is not None:
        check_int(1, head_dim=head_dim)
        return head_dim
    if embed_dim % num_heads:
        raise ValueError(
            "`embed_dim` must be divisible by `num_heads`, or `head_dim` be given. "
            f"Received: embed_dim={embed_dim}, num_heads={num_heads}"
        )
    return embed_dim // num_heads


def mlp_hidden_dim(embed_dim: int, mlp_ratio: float) -> int:
    """Return the MLP's hidden width; raise ValueError when it is no width."""
    valid = isinstance(mlp_ratio, (int, float)) and not isinstance(mlp_ratio, bool)
    if not valid or not math.isfinite(mlp_ratio) or int(embed_dim * mlp_ratio) < 1:
        raise ValueError(
            "`mlp_ratio` must be a number that gives the MLP at least one hidden "
            f"unit. Received: mlp_ratio={mlp_ratio!r}, embed_dim={embed_dim}"
        )
    return int(embed_dim * mlp_ratio)


def check_projections(
    projection: str,
    kernel_size: int,
    padding_q: int,
    padding_kv: int,
    stride_q: int,
    stride_kv: int,
) -> None:
    """Raise ValueError unless the projections of one attention fit together.

    The query must keep one token a position, or the block could not add its
    input back. Only `dw_bn` convolves the query.
    """
    check_choice(PROJECTIONS, projection=projection)
    check_int(1, kernel_size=kernel_size, stride_q=stride_q, stride_kv=stride_kv)
    check_int(0, padding_q=padding_q, padding_kv=padding_kv)
    check_pooling(projection, kernel_size, padding_kv)
    if projection == "dw_bn" and (stride_q != 1 or 2 * padding_q != kernel_size - 1):
        raise ValueError(
            "The residual connection needs a query projection that keeps height and "
            "width: `stride_q` 1 and `padding_q` (kernel_size - 1) / 2. Received: "
            f"stride_q={stride_q}, padding_q={padding_q}, kernel_size={kernel_size}"
        )


def check_pooling(projection: str, kernel_size: int, padding: int) -> None:
    """Raise ValueError if an average pooling could see nothing but padding."""
    if projection == "avg" and 2 * padding > kernel_size:
        raise ValueError(
            "Average pooling takes a padding of at most half its `kernel_size`. "
            f"Received: padding={padding}, kernel_size={kernel_size}"
        )


def conv_output_size(
    size: int | None, kernel_size: int, stride: int, padding: int
) -> int | None:
    """Return how many positions a padded "valid" convolution leaves of `size`.

    Raises:
        ValueError: If the kernel does not fit even once.
    """
    if size is None:
        return None
    output = (size + 2 * padding - kernel_size) // stride + 1
    if output < 1:
        raise ValueError(
            f"The input is too small: a kernel of {kernel_size} with padding "
            f"{padding} needs at least {kernel_size - 2 * padding} pixels or "
            f"positions in each direction. Received: {size}"
        )
    return output


def avg_output_size(
    size: int | None, kernel_size: int, stride: int, padding: int
) -> int | None:
    """Return how many positions PyTorch's ceil-mode pooling leaves of `size`.

    A window may reach past the padded input by up to `stride - 1` positions, so that
    the input may be that much smaller than the kernel.

    Raises:
        ValueError: If there is no window even so.
    """
    if size is None:
        return None
    smallest = max(1, kernel_size - 2 * padding - stride + 1)
    if size < smallest:
        raise ValueError(
            f"The input is too small: average pooling with a kernel of {kernel_size}, "
            f"stride {stride} and padding {padding} needs at least {smallest} "
            f"positions in each direction. Received: {size}"
        )
    output = -(-(size + 2 * padding - kernel_size) // stride) + 1
    # PyTorch drops a last window that would start in the right-hand padding.
    return output - 1 if (output - 1) * stride >= size + padding else output


def check_labels(labels: Sequence[str], classes: int) -> tuple[str, ...]:
    """Return a name for each class.

    Raises:
        ValueError: If they are not a sequence, or their number is not the number of
            classes.
    """
    # A string is a sequence too, of letters; the others have no order of classes.
    unordered = isinstance(labels, (str, Mapping, Set))
    if unordered or len(labels) != classes:
        raise ValueError(
            f"Expected {classes} labels, a class each, in the order of the outputs. "
            f"Received: {len(labels)}, {labels!r:.80}"
        )
    return tuple(map(str, labels))
