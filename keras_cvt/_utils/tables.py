"""Plain-text tables."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")


def render(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return an aligned table: numbers to the right, text to the left."""
    records = [list(row) for row in rows]
    aligned = []
    for i, title in enumerate(columns):
        values = [record[i] for record in records]
        cells = [title, *map(_text, values)]
        numbers = all(isinstance(value, (int, float, type(None))) for value in values)
        align = str.rjust if values and numbers else str.ljust
        width = max(map(len, cells))
        aligned.append([align(cell, width) for cell in cells])
    lines = ["  ".join(cells).rstrip() for cells in zip(*aligned, strict=True)]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


class Table(dict[str, Record]):
    """A dict of records by name that prints as a table.

    Args:
        records: The records by name.
        columns: Column title -> function of a name and its record that returns the
            value to print.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        columns: Mapping[str, Callable[[str, Record], Any]],
    ):
        super().__init__(records)
        self._columns = columns

    def rows(self) -> list[dict[str, Any]]:
        """Return the table's rows as dicts, column title -> value."""
        return [
            {title: value(name, record) for title, value in self._columns.items()}
            for name, record in self.items()
        ]

    def __repr__(self) -> str:
        return render(self._columns, (row.values() for row in self.rows()))


def _text(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
