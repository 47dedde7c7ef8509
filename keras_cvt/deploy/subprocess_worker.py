"""The subprocess of `subprocess_export`."""

import functools
import gc
import hashlib
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import IO

import keras
import numpy as np

from keras_cvt._utils import foreign_output
from keras_cvt.deploy import conversions
from keras_cvt.deploy.exporting import export
from keras_cvt.deploy.fusion import fuse
from keras_cvt.deploy.precision import in_float32
from keras_cvt.deploy.subprocess_export import ERRORS


def main(calls: IO[str], answers: IO[str]) -> None:
    """Run each export that a line describes, and answer with a line.

    An error that `ERRORS` does not hold ends the process. The end of the calls does so
    too, also in the middle of an export: then the parent has died.
    """
    foreign_output.show()
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()

    def read():
        for line in calls:
            busy.set()
            waiting.put(line)
        if busy.is_set():
            _kill()
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := waiting.get()) is not None:
        error = _export(json.loads(line))
        keras.utils.clear_session()
        gc.collect()
        busy.clear()
        answer = {"error": error, "memory": _memory()}
        print(json.dumps(answer), file=answers, flush=True)


def _export(call):
    """Return the error's name and message, or None."""
    os.chdir(call["folder"])
    images, arguments = call.get("images"), call["arguments"]
    file = Path(os.path.abspath(call["model"]))
    # A file that was written anew is another one.
    modified = file.stat().st_mtime_ns if file.is_file() else None
    identity = hashlib.sha256(os.fsencode(f"{file} {modified}")).hexdigest()
    kept = Path(call["conversions"], identity)
    try:
        network = _load(file, modified, arguments.get("fuse", True))
        with conversions.kept_in(kept):
            export(
                network,
                call["path"],
                representative_images=None if images is None else np.load(images),
                **arguments,
            )
    except tuple(ERRORS.values()) as error:
        name = next(n for n, kind in ERRORS.items() if isinstance(error, kind))
        return name, str(error)
    return None


@functools.lru_cache(maxsize=1)
def _load(file, modified, fused):
    """Return the network that is written: in float32, and fused if it is to be."""
    # Its loss and metrics may be its owner's own, and are not needed.
    network = in_float32(keras.models.load_model(file, compile=False))
    return fuse(network) if fused else network


def _kill():
    """Kill this process and what it has started."""
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _memory():
    """Return the bytes of memory that this process holds, or None if unknown.

    On macOS it is the most that it has held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text().splitlines()
        held = next(line for line in lines if line.startswith("VmRSS:"))
        return 1024 * int(held.split()[1])
    if sys.platform != "darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
