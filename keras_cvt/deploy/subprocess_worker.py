"""The subprocess of `subprocess_export`."""

import gc
import json
import os
import sys

import keras
import numpy as np

from keras_cvt._utils import foreign_output
from keras_cvt.deploy.exporting import export
from keras_cvt.deploy.subprocess_export import ERRORS


def main() -> None:
    """Run each export that a line of the input describes, and answer with a line.

    An error that `ERRORS` does not hold ends the process, and so does the input's end.
    """
    foreign_output.show()
    # Only answers go there; converters print to the standard output too.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            error = _export(json.loads(line))
            keras.utils.clear_session()
            gc.collect()
            answer = {"error": error, "memory": _most_memory()}
            print(json.dumps(answer), file=answers, flush=True)


def _export(call):
    """Return the error's name and message, or None."""
    images = call.get("images")
    try:
        export(
            # Its loss and metrics may be its owner's own, and are not needed.
            keras.models.load_model(call["model"], compile=False),
            call["path"],
            representative_images=None if images is None else np.load(images),
            **call["arguments"],
        )
    except tuple(ERRORS.values()) as error:
        return next(n for n, kind in ERRORS.items() if isinstance(error, kind)), str(
            error
        )
    return None


def _most_memory():
    """Return the bytes of memory that this process has used at most, if known."""
    try:
        import resource
    except ImportError:
        # Windows.
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
