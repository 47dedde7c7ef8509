"""Files of results: JSON lines, CSV and Parquet."""

import csv
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cvt._utils.optional import require
from keras_cvt.data.folders import printable

if TYPE_CHECKING:
    import pyarrow

# Rows of one row group of a Parquet file.
_ROW_GROUP = 8192


def check_output(path: Path) -> None:
    """Check that a file of results can be written there, before anything is computed.

    Raises:
        ValueError: If the path has another suffix or is a folder.
        ImportError: If the format needs a package that is missing.
    """
    if path.suffix not in WRITERS or path.is_dir():
        raise ValueError(
            f"Expected the path of a file that ends in {', '.join(WRITERS)}. "
            f"Received: {path}"
        )
    if path.suffix == ".parquet":
        _pyarrow()


def write_jsonl(rows: Iterable[dict[str, Any]], path: Path, top: int) -> None:
    """Write each row as a line of JSON."""
    with path.open("w", encoding="ascii") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)


def write_csv(rows: Iterable[dict[str, Any]], path: Path, top: int) -> None:
    """Write a line for each image: image, label_1, score_1, label_2, ..., error."""
    numbers = range(1, top + 1)
    titles = [f"{name}_{i}" for i in numbers for name in ("label", "score")]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *titles, "error"])
        for row in rows:
            best = row.get("predictions", [])
            cells = [cell for e in best for cell in (printable(e["label"]), e["score"])]
            cells += [""] * (2 * top - len(cells))
            writer.writerow([printable(row["image"]), *cells, row.get("error", "")])


def write_parquet(rows: Iterable[dict[str, Any]], path: Path, top: int) -> None:
    """Write the table of `to_table`."""
    parquet = require("pyarrow.parquet", "parquet", "Writing Parquet")
    rows = iter(rows)
    with parquet.ParquetWriter(path, to_table([]).schema) as writer:
        while group := list(itertools.islice(rows, _ROW_GROUP)):
            writer.write_table(to_table(group))


def to_table(rows: Iterable[dict[str, Any]]) -> "pyarrow.Table":
    """Return rows as a table with the columns `image`, `labels`, `scores`, `error`.

    `labels` and `scores` (float32) are lists, highest score first, and null where the
    image could not be read; `error` is null where it could.
    """
    pyarrow = _pyarrow()
    columns: dict[str, list[Any]] = {"image": [], "labels": [], "scores": []}
    columns["error"] = []
    for row in rows:
        best = row.get("predictions")
        columns["image"].append(printable(row["image"]))
        columns["labels"].append(best and [printable(e["label"]) for e in best])
        columns["scores"].append(best and [e["score"] for e in best])
        columns["error"].append(row.get("error"))
    types = {
        "image": pyarrow.string(),
        "labels": pyarrow.list_(pyarrow.string()),
        "scores": pyarrow.list_(pyarrow.float32()),
        "error": pyarrow.string(),
    }
    return pyarrow.table(columns, schema=pyarrow.schema(types))


WRITERS = {".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}


def _pyarrow():
    return require("pyarrow", "parquet", "Writing Parquet")
