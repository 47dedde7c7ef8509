"""Export in a subprocess, because TensorFlow's LiteRT converter leaks memory."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt.deploy.checks import ExportError

_PROGRAM = "from keras_cvt.deploy import subprocess_worker; subprocess_worker.main()"
# A subprocess that has used more bytes of memory is replaced before the next export.
_MOST_MEMORY = 4 * 2**30
# Seconds in which a subprocess without further work has to end.
_PATIENCE = 10.0
# Characters of what a failed subprocess printed that its error repeats: the last ones.
_MOST_PRINTED = 1000
# Errors of `export` that are raised here as they were raised there.
ERRORS = {
    error.__name__: error for error in (ExportError, ValueError, ImportError, OSError)
}


class ExportProcess:
    """A subprocess that exports saved models, one after another.

    Importing TensorFlow and the converters takes longer than exporting a small network,
    so that several exports share a process. It starts with the first of them, and is
    replaced where it has died or has used 4 GiB. Leave the `with` block to end it.

    Example:
        >>> with ExportProcess() as process:
        ...     process.export("model.keras", "model.tflite")
        ...     process.export("model.keras", "model.onnx")
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "ExportProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def export(
        self,
        model_file: str | os.PathLike,
        path: str | os.PathLike,
        format: str | None = None,
        quantization: str | None = None,
        representative_images: np.ndarray | None = None,
        **arguments: Any,
    ) -> None:
        """Export a saved model; see `export_in_subprocess`."""
        arguments |= {"format": format, "quantization": quantization}
        call: dict[str, Any] = {"model": str(model_file), "path": str(path)}
        call["arguments"] = arguments
        with tempfile.TemporaryDirectory() as folder:
            if representative_images is not None:
                call["images"] = os.path.join(folder, "images.npy")
                np.save(call["images"], representative_images)
            answer = self._ask(json.dumps(call))
        if answer is None:
            raise self._died(path)
        if answer["memory"] is None or answer["memory"] > _MOST_MEMORY:
            self._end()
        if answer["error"]:
            name, message = answer["error"]
            raise ERRORS[name](message)

    def _ask(self, line):
        """Return the subprocess's answer, or None if it died."""
        try:
            process = self._process = self._process or self._start()
            process.stdin.write(line + "\n")
            process.stdin.flush()
            while True:
                # Its own subprocesses, such as a converter's, may keep the pipe open.
                is_over = process.poll() is not None
                with contextlib.suppress(queue.Empty):
                    return self._answers.get(timeout=0.1)
                if is_over:
                    return None
        except BrokenPipeError:
            return None
        except BaseException:
            # What it is doing is not wanted any more.
            self._end(gently=False)
            raise

    def _start(self):
        self._printed = tempfile.TemporaryFile()
        environment = os.environ | {
            "KERAS_BACKEND": keras.backend.backend(),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        process = subprocess.Popen(
            # -P: modules in the current folder are not imported.
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            text=True,
            env=environment,
            # A group of processes, which can be killed with all that belongs to it.
            start_new_session=True,
        )
        self._answers = queue.SimpleQueue()
        reader = threading.Thread(
            target=_read, args=(process.stdout, self._answers), daemon=True
        )
        reader.start()
        return process

    def _died(self, path):
        """Forget the subprocess, and return the error that says how it ended."""
        status = self._process.wait()
        self._printed.seek(max(0, self._printed.seek(0, os.SEEK_END) - _MOST_PRINTED))
        printed = self._printed.read().decode(errors="replace").strip()
        self._end(gently=False)
        return ChildProcessError(
            f"Exporting {Path(path).name} ended with status {status}: {printed}"
        )

    def _end(self, gently=True):
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.stdin.close()
        if gently:
            # It ends its own subprocesses.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        self._printed.close()


def _read(stream, answers):
    with stream:
        for line in stream:
            answers.put(json.loads(line))


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
    with ExportProcess() as process:
        process.export(
            model_file,
            path,
            format,
            quantization,
            representative_images,
            **arguments,
        )
