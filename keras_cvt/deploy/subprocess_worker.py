"""The subprocess that `subprocess_export` starts."""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from keras_cvt._utils import foreign_output
from keras_cvt.deploy.exporting import export
from keras_cvt.deploy.subprocess_export import ERRORS


def main() -> None:
    """Run the export that is described in the folder `sys.argv[1]`."""
    folder = Path(sys.argv[1])
    call = json.loads((folder / "call.json").read_text(encoding="utf-8"))
    images = folder / "images.npy"
    foreign_output.show()
    try:
        export(
            # Its loss and metrics may be its owner's own, and are not needed.
            keras.models.load_model(call["model"], compile=False),
            call["path"],
            representative_images=np.load(images) if images.is_file() else None,
            **call["arguments"],
        )
    except tuple(ERRORS.values()) as error:
        name = next(n for n, kind in ERRORS.items() if isinstance(error, kind))
        answer = json.dumps([name, str(error)])
        (folder / "error.json").write_text(answer, encoding="utf-8")
