"""Argument checks shared by the configuration and the layers."""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeGuard

ACTIVATIONS = ("quick_gelu", "gelu")
INITS = ("trunc_norm", "xavier")
PROJECTIONS = ("dw_bn", "avg", "linear")
SCALES = ("embed_dim", "head_dim")


def check(valid: Callable[[Any], bool], expected: str, **arguments: Any) -> None:
    """Raise ValueError unless every named argument is valid.

    Args:
        valid: Whether a value is valid.
        expected: The valid values in words, as in "`x` must be {expected}".
        **arguments: The values by the names of the arguments.
    """
    for name, value in arguments.items():
        if not valid(value):
            raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def is_int(value: object) -> TypeGuard[int]:
    """Tell whether this is an int, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Tell whether this is a finite int or float, and not a bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -math.inf < value < math.inf


def is_pair(value: object) -> TypeGuard[Sequence[Any]]:
    """Tell whether this is a tuple or list of two elements."""
    return isinstance(value, (tuple, list)) and len(value) == 2


def check_int(minimum: int, **arguments: int) -> None:
    """Raise ValueError unless every named argument is an int >= `minimum`."""
    expected = f"an integer of at least {minimum}"
    check(lambda x: is_int(x) and x >= minimum, expected, **arguments)


def check_rate(**arguments: float) -> None:
    """Raise ValueError unless every named argument is in [0, 1)."""
    check(lambda x: is_number(x) and 0 <= x < 1, "a number in [0, 1)", **arguments)


def check_non_negative(**arguments: float) -> None:
    """Raise ValueError unless every named argument is a finite number >= 0."""
    check(lambda x: is_number(x) and x >= 0, "a number of at least 0", **arguments)


def check_at_most(limit: float, **arguments: float) -> None:
    """Raise ValueError unless every named argument is <= `limit`."""
    check(lambda x: x <= limit, f"at most {limit}", **arguments)


def check_bool(**arguments: bool) -> None:
    """Raise ValueError unless every named argument is a bool."""
    check(lambda x: isinstance(x, bool), "True or False", **arguments)


def check_choice(choices: tuple[Any, ...], **arguments: Any) -> None:
    """Raise ValueError unless every named argument is one of `choices`."""
    expected = f"one of {', '.join(map(repr, choices))}"
    check(lambda x: x in choices, expected, **arguments)


def head_dim(embed_dim: int, num_heads: int, head_dim: int | None = None) -> int:
    """Return the channels of one head, by default `embed_dim // num_heads`.

    Raises:
        ValueError: If `embed_dim` is not divisible by `num_heads`, or an argument is
            not a positive integer.
    """
    check_int(1, embed_dim=embed_dim, num_heads=num_heads)
    if head_dim is not None:
        check_int(1, head_dim=head_dim)
        return head_dim
    if embed_dim % num_heads:
        raise ValueError(
            "`embed_dim` must be divisible by `num_heads` unless `head_dim` is given. "
            f"Received: embed_dim={embed_dim}, num_heads={num_heads}"
        )
    return embed_dim // num_heads


def mlp_hidden_dim(embed_dim: int, mlp_ratio: float) -> int:
    """Return the width of the MLP's hidden layer.

    Raises:
        ValueError: If `mlp_ratio` is not a number that gives at least one unit.
    """
    if not is_number(mlp_ratio) or int(embed_dim * mlp_ratio) < 1:
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

    The query must keep one token per position, because the block adds its input to
    the result. Only `dw_bn` convolves the query.
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
    """Raise ValueError if an average pooling window could hold only padding."""
    if projection == "avg" and 2 * padding > kernel_size:
        raise ValueError(
            "The padding of average pooling must be at most half of `kernel_size`. "
            f"Received: padding={padding}, kernel_size={kernel_size}"
        )


def conv_output_size(
    size: int | None, kernel_size: int, stride: int, padding: int
) -> int | None:
    """Return the output size of a padded "valid" convolution along one axis.

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
    """Return the output size of PyTorch's ceil-mode pooling along one axis.

    A window may reach past the padded input by up to `stride - 1` positions, so the
    input may be smaller than the kernel by as many.

    Raises:
        ValueError: If not even one window fits.
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


def projection_output_size(
    projection: str, size: int | None, kernel_size: int, stride: int, padding: int
) -> int | None:
    """Return the output size of a `ConvProjection` along one axis."""
    if projection == "linear":
        return size
    output_size = avg_output_size if projection == "avg" else conv_output_size
    return output_size(size, kernel_size, stride, padding)


def check_class_names(
    names: Sequence[str], classes: int, stored: bool = False
) -> tuple[str, ...]:
    """Return the class names as a tuple.

    Args:
        names: The names.
        classes: Number of classes.
        stored: Whether a file has them. Version 0.1.0 also saved empty ones.

    Raises:
        ValueError: If they are not a sequence with one name for each class, or if one
            is empty, not text or not UTF-8.
    """
    # A string is a sequence of letters. A mapping or a set has no order of classes.
    ordered = hasattr(names, "__len__") and not isinstance(names, (str, Mapping, Set))
    if not ordered or len(names) != classes:
        count = f"{len(names)} names" if ordered else f"a {type(names).__name__}"
        raise ValueError(
            f"Expected {classes} class names, one for each class, in the order of the "
            f"outputs. Received: {count}, {names!r:.80}"
        )
    return tuple(_class_name(name, stored) for name in names)


def _class_name(name, stored):
    try:
        text = name.decode("utf-8") if isinstance(name, bytes) else name
        # Of a folder, for example, whose name is not UTF-8.
        str(text).encode("utf-8")
        valid = isinstance(text, (str, numbers.Integral))
    except UnicodeError:
        valid = False
    if not valid or not (stored or str(text).strip()):
        raise ValueError(
            f"Expected non-empty class names, text in UTF-8. Received: {name!r}"
        )
    return str(text)
