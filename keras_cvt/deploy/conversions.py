"""What a network is converted to on its way to several files, and kept between them."""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

import keras

from keras_cvt._utils.files import write_whole
from keras_cvt.deploy import tensorflow_graphs
from keras_cvt.deploy.file_format import ExportOptions

_folder: ContextVar[Path | None] = ContextVar("conversions", default=None)


@contextlib.contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Keep the conversions of the block's exports, and take earlier ones from there.

    Args:
        folder: A folder for one saved model, whose weights do not change. It need not
            exist.
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


@contextlib.contextmanager
def converted(
    path: Path, options: ExportOptions, name: str, write: Callable[[Path], object]
) -> Iterator[Path]:
    """Yield a file or folder that a network was converted to.

    Outside of `kept_in` it is made anew and deleted after the block.

    Args:
        path: The export that needs it.
        options: The options of that export. Fused and not, and for each size, the
            networks differ.
        name: Name of the file or folder.
        write: Writes it to the path that it gets.
    """
    kept = _folder.get()
    with contextlib.ExitStack() as stack:
        if kept is None:
            temporary = tempfile.TemporaryDirectory(dir=path.parent)
            folder = Path(stack.enter_context(temporary))
        else:
            sizes = "x".join(
                "any" if size is None else str(size) for size in options.shape
            )
            fused = "fused" if options.metadata["fused"] else "unfused"
            folder = kept / f"{fused}_{sizes}"
        place = folder / name
        if not place.exists():
            write_whole(place, write)
        yield place


def saved_model(
    network: keras.Model, path: Path, options: ExportOptions
) -> contextlib.AbstractContextManager[Path]:
    """Return a context with the folder of the network as TensorFlow saves it.

    Weights are variables: converters make constants of them themselves, in a third of
    the memory.
    """
    save = functools.partial(
        tensorflow_graphs.save, network, shape=options.shape, constants=False
    )
    return converted(path, options, "network", save)
