"""Runtimes and converters that are imported only where they are used."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: Its dotted name.
        extra: The extra of keras_cvt that installs it.

    Raises:
        ImportError: If it is missing; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs {module.split('.')[0]}, which cannot be imported ({error}); "
            f'`pip install "keras_cvt[{extra}]"` installs it.'
        ) from error
