"""Exports in processes of their own: TensorFlow's LiteRT converter leaks memory."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt.deploy.export import export

_PROGRAM = "from keras_cvt.deploy import processes; processes.main()"
# What `export` says of a wrong call comes back as what it was.
_ERRORS = {error.__name__: error for error in (ValueError, ImportError, OSError)}


def export_elsewhere(
    model_file: Path,
    path: Path,
    representative_images: np.ndarray | None = None,
    **arguments: Any,
) -> None:
    """Export a saved model in another process, which takes its memory with it.

    Args:
        model_file: A `CvTModel`, saved as `.keras`.
        path: Where to write.
        representative_images: Of `keras_cvt.deploy.export`.
        **arguments: Its other arguments, as JSON can hold them.

    Raises:
        ValueError: As `keras_cvt.deploy.export` does.
        ImportError: As it does.
        OSError: As it does; a ChildProcessError if the process dies.
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if representative_images is not None:
            np.save(folder / "images.npy", representative_images)
        call = {"model": str(model_file), "path": str(path), "arguments": arguments}
        (folder / "call.json").write_text(json.dumps(call), encoding="utf-8")
        result = subprocess.run(
            # -P: what lies in the current folder is no module of the program's.
            [sys.executable, "-P", "-c", _PROGRAM, folder],
            capture_output=True,
            text=True,
            env=os.environ
            | {
                "KERAS_BACKEND": keras.backend.backend(),
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            },
        )
        error = folder / "error.json"
        if error.is_file():
            name, message = json.loads(error.read_text(encoding="utf-8"))
            raise _ERRORS[name](message)
    if result.returncode:
        raise ChildProcessError(
            f"Exporting {path.name} ended with status {result.returncode}: "
            f"{result.stderr[-1000:].strip()}"
        )


def main() -> None:
    """Export as the call in the folder says that is the process's argument."""
    folder = Path(sys.argv[1])
    call = json.loads((folder / "call.json").read_text(encoding="utf-8"))
    images = folder / "images.npy"
    try:
        export(
            # Without what it was trained with, which may be its owner's own.
            keras.models.load_model(call["model"], compile=False),
            call["path"],
            representative_images=np.load(images) if images.is_file() else None,
            **call["arguments"],
        )
    except tuple(_ERRORS.values()) as error:
        name = next(n for n, kind in _ERRORS.items() if isinstance(error, kind))
        answer = json.dumps([name, str(error)])
        (folder / "error.json").write_text(answer, encoding="utf-8")
