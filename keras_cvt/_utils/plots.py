"""Figures that are drawn to files and leave the program's own plots alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cvt._utils.files import write_whole
from keras_cvt._utils.optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**options: Any) -> "Figure":
    """Return an empty figure, made without pyplot: it opens no window.

    Args:
        **options: Arguments of `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is missing. The message names the extra.
    """
    return require("matplotlib.figure", "train", "A plot").Figure(**options)


def save_png(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, completely or not at all."""
    write_whole(path, lambda file: figure.savefig(file, dpi=120))
