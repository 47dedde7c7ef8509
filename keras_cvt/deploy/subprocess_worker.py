"""The subprocess of `subprocess_export`."""

import contextlib
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

# The network of the last export, by its key.
_loaded: dict[tuple, keras.Model] = {}


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
    try:
        key = _key(call["model"], arguments.get("fuse", True))
        with contextlib.ExitStack() as stack:
            if key is not None:
                name = hashlib.sha256(repr(key).encode()).hexdigest()
                kept = Path(call["conversions"], name)
                stack.enter_context(conversions.kept_in(kept))
            export(
                _load(call["model"], arguments.get("fuse", True), key),
                call["path"],
                representative_images=None if images is None else np.load(images),
                **arguments,
            )
    except tuple(ERRORS.values()) as error:
        name = next(n for n, kind in ERRORS.items() if isinstance(error, kind))
        return name, str(error)
    return None


def _key(model, fused):
    """Return what tells a network from others, or None if it is not a file."""
    if not os.path.isfile(model):
        return None
    found = os.stat(model)
    facts = found.st_mtime_ns, found.st_size, found.st_ino
    return os.fsencode(os.path.abspath(model)), *facts, fused


def _load(model, fused, key):
    """Return the network that is written: in float32, and fused if it is to be."""
    if key is not None and key in _loaded:
        return _loaded[key]
    # Before the next one, so that there are no two.
    _loaded.clear()
    # Its loss and metrics may be its owner's own, and are not needed.
    network = keras.models.load_model(model, compile=False)
    # `export` refuses what cannot be written, and says why.
    with contextlib.suppress(ValueError):
        network = in_float32(network)
        network = fuse(network) if fused else network
    if key is not None:
        _loaded[key] = network
    return network


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
