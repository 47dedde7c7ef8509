"""Plain-text tables for people."""

from collections.abc import Iterable, Mapping
from typing import Any


def render(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return an aligned table; numbers go to the right, text to the left."""
    rows = [list(row) for row in rows]
    cells = [list(columns), *([_text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[i], (int, float, type(None))) for row in rows)
        for i in range(len(widths))
    ]
    lines = [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


class Table(Mapping):
    """A read-only mapping from names to records, printed as a table.

    Args:
        records: The records by name.
        columns: Column title -> function of a name and its record.
    """

    def __init__(self, records, columns):
        self._records = dict(records)
        self._columns = columns

    def __getitem__(self, name):
        return self._records[name]

    def __iter__(self):
        return iter(self._records)

    def __len__(self):
        return len(self._records)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table's rows as dicts, column title -> value."""
        return [
            {title: value(name, record) for title, value in self._columns.items()}
            for name, record in self._records.items()
        ]

    def __repr__(self):
        return render(self._columns, (row.values() for row in self.rows()))


def _text(value):
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
