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
from typing import IO, Any

import keras
import numpy as np

from keras_cvt._utils.files import temporary_folder
from keras_cvt.deploy.checks import ExportError

# Answers alone go to the pipe: what imports and converters print goes where errors do.
# Nor does a converter's own subprocess read the calls.
_PROGRAM = """\
import os
calls, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(2, 1)
from keras_cvt.deploy import subprocess_worker
subprocess_worker.main(calls, answers)
"""
# A subprocess that holds more bytes of memory after an export is replaced.
_MOST_MEMORY = 2 * 2**30
# Seconds in which a subprocess without further work has to end.
_PATIENCE = 10.0
# Characters of what a failed subprocess printed that its error repeats: the last ones.
_MOST_PRINTED = 1000
# Errors of `export` that are raised here as they were raised there.
ERRORS = {
    error.__name__: error for error in (ExportError, ValueError, ImportError, OSError)
}


class ExportProcess:
    """A subprocess that exports saved models, one after another, in a `with` block.

    Importing TensorFlow and the converters takes longer than exporting a small network,
    so that several exports share a process. Those of one model share its fused network,
    and in a temporary folder beside the first export what converters made of it. The
    process starts with the first export, has the environment and `sys.path` of that
    moment, and ends with the block. One that died, or that holds 2 GiB, is replaced; on
    Windows, where nobody measures that, every one.
    It serves one thread.

    Example:
        >>> with ExportProcess() as exporter:
        ...     exporter.export("model.keras", "model.tflite")
        ...     exporter.export("model.keras", "model.onnx")
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        # Holds the folder of the conversions, which lies beside the first export.
        self._stack = contextlib.ExitStack()
        self._conversions: Path | None = None
        self._printed: IO[bytes]
        self._answers: queue.SimpleQueue[dict]
        self._reader: threading.Thread

    def __enter__(self) -> "ExportProcess":
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._end(gently=True)
        self._conversions = None

    def export(
        self,
        model_file: str | os.PathLike,
        path: str | os.PathLike,
        *,
        representative_images: np.ndarray | None = None,
        **arguments: Any,
    ) -> None:
        """Export a saved model; arguments and errors are `export_in_subprocess`'s."""
        if self._conversions is None:
            parent = Path(path).absolute().parent
            self._conversions = self._stack.enter_context(temporary_folder(parent))
        call: dict[str, Any] = {
            "model": str(model_file),
            "path": str(path),
            "folder": os.getcwd(),
            "conversions": str(self._conversions),
            "arguments": arguments,
        }
        with tempfile.TemporaryDirectory() as folder:
            if representative_images is not None:
                call["images"] = os.path.join(folder, "images.npy")
                np.save(call["images"], representative_images)
            line = json.dumps(call)
            try:
                if self._process is None:
                    self._start()
                begin = os.fstat(self._printed.fileno()).st_size
                answer = self._ask(line)
            except BaseException:
                # What it is doing is not wanted any more.
                self._end(gently=False)
                raise
        if answer is None:
            raise self._died(path, begin)
        if answer["memory"] is None or answer["memory"] > _MOST_MEMORY:
            self._end(gently=True)
        if answer["error"]:
            name, message = answer["error"]
            raise ERRORS[name](message)

    def _ask(self, line):
        """Return the subprocess's answer, or None if it died."""
        # A dead one raises BrokenPipeError, or EINVAL on Windows.
        with contextlib.suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        while self._process.poll() is None:
            with contextlib.suppress(queue.Empty):
                return self._answers.get(timeout=0.1)
        # Processes that it has forked may keep the pipe open.
        self._reader.join(1)
        with contextlib.suppress(queue.Empty):
            return self._answers.get_nowait()
        return None

    def _start(self):
        self._printed = tempfile.TemporaryFile()
        environment = os.environ | {
            "KERAS_BACKEND": keras.backend.backend(),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        try:
            self._process = subprocess.Popen(
                # -P: modules in the current folder are not imported.
                [sys.executable, "-P", "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                text=True,
                env=environment,
                # A group, so that what it has forked can be killed with it.
                start_new_session=True,
            )
        except BaseException:
            self._printed.close()
            raise
        self._answers = queue.SimpleQueue()
        self._reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._answers), daemon=True
        )
        self._reader.start()

    def _died(self, path, begin):
        """Forget the subprocess, and return the error that says how it ended.

        Args:
            path: What it was to write.
            begin: Bytes that it had printed before.
        """
        status = self._process.wait()
        end = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(begin, end - _MOST_PRINTED))
        printed = self._printed.read().decode(errors="replace").strip()
        self._end(gently=False)
        return ChildProcessError(
            f"Exporting {Path(path).name} ended with status {status}: {printed}"
        )

    def _end(self, gently):
        process, self._process = self._process, None
        if process is None:
            return
        try:
            with contextlib.suppress(OSError):
                process.stdin.close()
            if gently:
                # It ends its own subprocesses.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE)
        finally:
            # Of a group without processes, macOS says that it may not be killed.
            with contextlib.suppress(
                AttributeError, ProcessLookupError, PermissionError
            ):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            self._reader.join(1)
            self._printed.close()


def _read(stream, answers):
    with stream:
        for line in stream:
            # `sitecustomize` may print before the program begins.
            if line.startswith('{"error": '):
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
    with ExportProcess() as exporter:
        exporter.export(
            model_file,
            path,
            format=format,
            quantization=quantization,
            representative_images=representative_images,
            **arguments,
        )
