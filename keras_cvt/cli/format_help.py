"""What the exported formats are called, for the help of commands.

The modules that define them import Keras, which takes seconds. So the plain facts are
read from their text.
"""

import ast
from pathlib import Path
from typing import Any

_MODULES = Path(__file__).parents[1] / "deploy" / "formats"


def records() -> list[dict[str, Any]]:
    """Return the plain fields of each format's record, as `formats.FORMATS` has them.

    What is computed, such as functions, is left out. So are defaults.
    """
    found = []
    for path in _MODULES.glob("[!_]*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if (
                isinstance(node, ast.Assign)
                and ast.unparse(node.targets[0]) == "FORMAT"
            ):
                assert isinstance(node.value, ast.Call)
                found.append(dict(_plain(node.value.keywords)))
    return sorted(found, key=lambda f: (f.get("suffix") != "", f["name"]))


def _plain(keywords):
    for keyword in keywords:
        try:
            yield keyword.arg, ast.literal_eval(keyword.value)
        except ValueError:
            continue


def describe_formats() -> str:
    """Return a text about all formats: suffix, quantizations and batch size."""
    lines = []
    for record in records():
        names = " or ".join(map(repr, (record["name"], *record.get("aliases", ()))))
        names += f" ({record.get('suffix') or 'a folder'}"
        batch_size = record.get("default_batch_size")
        if batch_size:
            names += f", {batch_size} image per call by default"
        quantizations = [q for q in record.get("quantizations", ()) if q]
        if quantizations:
            names += f"; quantizations {', '.join(quantizations)}"
        lines.append(f"{names})")
    return (
        f"Formats: {'; '.join(lines)}. A quantization can be part of a name, as in "
        f"{'openvino_bfloat16'!r}."
    )
