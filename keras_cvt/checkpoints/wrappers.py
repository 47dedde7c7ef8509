"""Finds a network's arrays in what training programs wrap around them.

Programs put the state dict into dicts of their own. DataParallel, torch.compile,
PyTorch Lightning and others put a prefix before every name. Both become one prefix.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from keras_cvt._utils.errors import CheckpointError

logger = logging.getLogger(__name__)

# Of a name, and of all that stands before it. Otherwise a small file of nested dicts
# could make names of any size.
_MAX_CHARACTERS = 200
_MAX_NETWORKS = 20
# PyTorch puts these before the names of modules, wherever they are.
_INNER_WRAPPERS = re.compile(
    r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Where the network itself is, if a file also holds copies of it, best first.
_OWN = ("", "state_dict", "model_state_dict", "model", "net", "module")
_COPIES = re.compile(
    r"(?<![a-z])(?:ema|avg|averaged?|optim(?:i[sz]er)?)(?![a-z])", re.IGNORECASE
)


def flatten(
    content: Mapping, to_array: Callable[[Any], np.ndarray | None]
) -> dict[str, np.ndarray]:
    """Return the arrays in nested dicts, by names that are joined with dots.

    Args:
        content: A dict of arrays, dicts and anything else, which is left out.
        to_array: Returns a value as an array, or None for what is no array.

    Raises:
        CheckpointError: If a name is absurdly long.
    """
    arrays = {}
    # A dict may contain itself, and many names may stand for one dict.
    visited: set[int] = set()
    left = deque([("", content)])
    while left:
        prefix, part = left.popleft()
        if id(part) in visited or len(prefix) > _MAX_CHARACTERS:
            continue
        visited.add(id(part))
        for key, value in part.items():
            is_dict = isinstance(value, Mapping)
            array = None if is_dict else to_array(value)
            if not isinstance(key, str) or (array is None and not is_dict):
                continue
            if len(key) > _MAX_CHARACTERS:
                raise CheckpointError(
                    f"expected names of at most {_MAX_CHARACTERS} characters. "
                    f"Received: {key[:50]!a}..."
                )
            if array is None:
                left.append((f"{prefix}{key}.", value))
            else:
                arrays[prefix + key] = array
    return arrays


def without_inner(name: str) -> str:
    """Return a name without the wrappers that PyTorch puts around inner modules."""
    return _INNER_WRAPPERS.sub("", name)


def choose(prefixes: Iterable[str]) -> str:
    """Return the prefix of the network that a checkpoint is loaded for.

    If there are several networks, those that are called an average (`ema`) or an
    optimizer come last. A log line names what is not loaded.

    Raises:
        CheckpointError: If it cannot be told which network is meant.
    """
    first, *others = ranked = sorted(dict.fromkeys(prefixes), key=_rank)
    others = [prefix for prefix in others if "optim" not in prefix]
    if not others and len(ranked) <= _MAX_NETWORKS:
        return first
    names = ", ".join(repr(prefix) for prefix in ranked[:_MAX_NETWORKS])
    way_out = (
        "To load another, pass its arrays as a dict, such as "
        "load_checkpoint(model, torch.load(path)['state_dict'])."
    )
    if len(ranked) > _MAX_NETWORKS or _rank(first) == _rank(others[0]):
        raise CheckpointError(
            f"Expected one network. Received: names that start with {names}. {way_out}"
        )
    logger.warning(
        "The checkpoint holds several networks, whose names start with %s. %r is "
        "loaded. %s",
        names,
        first,
        way_out,
    )
    return first


def _rank(prefix):
    if _COPIES.search(prefix):
        return len(_OWN) + 1
    first = re.split("[./]", prefix, maxsplit=1)[0]
    return _OWN.index(first) if first in _OWN else len(_OWN)
