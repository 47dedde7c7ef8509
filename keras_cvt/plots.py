"""Figures that are drawn to files and leave the program's own plots alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cvt.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**options: Any) -> "Figure":
    """Return an empty figure, made without pyplot: no backend is chosen, no window.

    Args:
        **options: Of `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is missing; the message names the extra.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'Plots need matplotlib: pip install "keras_cvt[train]"'
        ) from error
    return Figure(**options)


def save_png(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_whole(path, lambda file: figure.savefig(file, dpi=120))
