"""Arguments by name, for constructors and configurations that share them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def select(function: Callable, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a function, chosen from more values by name.

    Args:
        function: A function, or the `__init__` of a class.
        values: A value for each argument except `self` and `**kwargs`: `locals()` of a
            constructor with more arguments, or `vars` of a layer that stores its
            arguments under their names.
    """
    names = inspect.signature(function).parameters
    return {name: values[name] for name in names if name not in ("self", "kwargs")}
