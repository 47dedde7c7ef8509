"""Packages that are imported when they are used."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class LazyModule(ModuleType):
    """A module that is imported when an attribute of it is first read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if TYPE_CHECKING:
    import tensorflow as tf
else:
    tf = LazyModule("tensorflow")


def require(module: str, extra: str, purpose: str = "This") -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: Its dotted name.
        extra: The extra of keras_cvt that installs it.
        purpose: What needs it, the first words of the error message.

    Returns:
        The module.

    Raises:
        ImportError: If it cannot be imported. The message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"{purpose} needs {package}, which cannot be imported ({error}). "
            f"Install it with {install_command(extra)}."
        ) from error


def install_command(extra: str) -> str:
    """Return the shell command that installs an extra of keras_cvt."""
    return f'`pip install "keras_cvt[{extra}]"`'
