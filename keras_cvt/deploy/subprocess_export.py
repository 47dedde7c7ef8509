"""Export in a subprocess, because TensorFlow's LiteRT converter leaks memory."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt.deploy.checks import ExportError

_PROGRAM = "from keras_cvt.deploy import subprocess_worker; subprocess_worker.main()"
# Errors of `export` that are raised here as they were raised there.
ERRORS = {
    error.__name__: error for error in (ExportError, ValueError, ImportError, OSError)
}


def export_in_subprocess(
    model_file: str | os.PathLike,
    path: str | os.PathLike,
    format: str | None = None,
    quantization: str | None = None,
    representative_images: np.ndarray | None = None,
    **arguments: Any,
) -> None:
    """Export a saved model in a subprocess, which frees its memory when it ends.

    Args:
        model_file: A `CvTModel`, saved as `.keras`.
        path: Where to write.
        format: See `keras_cvt.deploy.export`. Defaults to `None`.
        quantization: See `keras_cvt.deploy.export`. Defaults to `None`.
        representative_images: See `keras_cvt.deploy.export`. Defaults to `None`.
        **arguments: Other arguments of `keras_cvt.deploy.export`, as JSON can hold
            them.

    Raises:
        ValueError: As `keras_cvt.deploy.export` does.
        ImportError: As `keras_cvt.deploy.export` does.
        OSError: As `keras_cvt.deploy.export` does. It is a ChildProcessError if the
            subprocess fails in another way.
    """
    arguments |= {"format": format, "quantization": quantization}
    call = {"model": str(model_file), "path": str(path), "arguments": arguments}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if representative_images is not None:
            np.save(folder / "images.npy", representative_images)
        (folder / "call.json").write_text(json.dumps(call), encoding="utf-8")
        environment = os.environ | {
            "KERAS_BACKEND": keras.backend.backend(),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        # -P: modules in the current folder are not imported.
        command = [sys.executable, "-P", "-c", _PROGRAM, str(folder)]
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment
        )
        error = folder / "error.json"
        if error.is_file():
            name, message = json.loads(error.read_text(encoding="utf-8"))
            raise ERRORS[name](message)
    if result.returncode:
        raise ChildProcessError(
            f"Exporting {Path(path).name} ended with status {result.returncode}: "
            f"{result.stderr[-1000:].strip()}"
        )
