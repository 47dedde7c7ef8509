"""The formats that a model can be exported to, one module of this folder for each.

A module defines `FORMAT`, a `keras_cvt.deploy.file_format.FileFormat`. To add a format,
add a module: Python and the command line find it here. Modules whose names begin with
an underscore are helpers.
"""

import importlib
import os
import pkgutil
from pathlib import Path

from keras_cvt._utils.foreign_output import kept_back
from keras_cvt.deploy.file_format import FileFormat, Runtime, Variant


def _discover() -> dict[str, FileFormat]:
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = [n for n in names if not n.startswith("_")]
    found = [importlib.import_module(f"{__name__}.{n}").FORMAT for n in modules]
    # The format of a path without a suffix comes first.
    return {f.name: f for f in sorted(found, key=lambda f: (f.suffix != "", f.name))}


FORMATS = _discover()


def variants() -> dict[str, Variant]:
    """Return every format in every quantization, by name."""
    found = [Variant(f, q) for f in FORMATS.values() for q in f.quantizations]
    return {variant.name: variant for variant in found}


def candidates() -> dict[str, Variant]:
    """Return the variants that a caller measures to choose one, by name."""
    return {n: v for n, v in variants().items() if not v.format.is_page}


def page() -> FileFormat:
    """Return the format that is a web page."""
    return next(found for found in FORMATS.values() if found.is_page)


def resolve(name: str) -> str:
    """Return the name that an alias stands for, or any other name as it is."""
    aliases = {alias: f.name for f in FORMATS.values() for alias in f.aliases}
    return aliases.get(name, name)


def find_variant(name: str, quantization: str | None = None) -> Variant:
    """Return the variant that a name stands for.

    Args:
        name: The name of a variant or of a format, or an alias.
        quantization: A quantization of the format, if the name does not say it.
            Defaults to `None`.

    Raises:
        ValueError: If there is no such variant.
    """
    name, known = resolve(name), variants()
    variant = known.get(name)
    if variant is None or quantization not in (None, variant.quantization):
        variant = known.get(f"{name}_{quantization}")
    if variant is None:
        raise ValueError(
            f"`format` must be one of {', '.join(map(repr, known))}, or a format and "
            "`quantization` the rest of such a name. "
            f"Received: format={name!r}, quantization={quantization!r}"
        )
    return variant


def for_path(path: str | os.PathLike) -> FileFormat:
    """Return the format to write to a path: the one with its suffix.

    Raises:
        ValueError: If no format has this suffix.
    """
    for found in FORMATS.values():
        if found.suffix == Path(path).suffix:
            return found
    raise ValueError(
        f"Without a format, the path must end in {_suffixes()}, or name a folder "
        f"without a suffix. Received: path={str(path)!r}"
    )


def of_path(path: str | os.PathLike) -> FileFormat:
    """Return the format of a file or folder that `keras_cvt.deploy.export` wrote.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it has none of the formats.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}")
    for found in FORMATS.values():
        if found.recognises(path):
            return found
    raise ValueError(
        f"Expected a file that ends in {_suffixes()}, or a folder, that "
        f"keras_cvt.deploy.export wrote. Received: path={str(path)!r}"
    )


def open_file(path: str | os.PathLike, threads: int | None = None) -> Runtime:
    """Open a file or folder that `keras_cvt.deploy.export` wrote.

    Args:
        path: The file or folder.
        threads: Number of threads of the runtime. TensorFlow has one number of threads
            for the whole process, which this does not change. Defaults to `None`,
            which means one thread for each processor.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If it has none of the formats.
        ImportError: If the runtime is missing. The message names the extra.
    """
    found = of_path(path)
    with kept_back():
        return found.open(Path(path), threads or os.cpu_count() or 1)


def _suffixes():
    *others, last = [f.suffix for f in FORMATS.values() if f.suffix]
    return f"{', '.join(others)} or {last}" if others else last
