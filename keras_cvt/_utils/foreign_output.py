"""What other packages print, kept back unless they fail."""

import contextlib
import ctypes
import faulthandler
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Any

# The outputs belong to the process: one block at a time.
_LOCK = threading.RLock()
# Characters that are shown of what a failing converter printed: the last ones.
_MOST = 10_000
_shown = False


def show() -> None:
    """Keep nothing back in this process, whose parent wants the outputs of a crash."""
    global _shown
    _shown = True


@contextlib.contextmanager
def kept_back() -> Iterator[None]:
    """Keep back what other packages print while the block runs.

    TensorFlow, tf2onnx and the others print warnings, progress bars and statistics,
    from Python and from C++, which tell nothing about the file that they write. If the
    block raises, what they printed is printed to the error output, unless the error is
    one of files or of a missing package, which says all.

    Of the process's outputs, all that comes from C++ is kept back, and of Python what
    this thread prints, logs and warns. keras_cvt itself says nothing in such a block.
    """
    if _shown:
        yield
        return
    with _LOCK, tempfile.TemporaryFile() as file:
        try:
            with _redirected(file):
                yield
        except (OSError, ImportError):
            raise
        except Exception:
            file.seek(0)
            text = file.read().decode(errors="replace").strip()
            if text:
                print(text[-_MOST:], file=sys.stderr)
            raise


class _OfOneThread:
    """A stream in the place of another, until `end`: it keeps what one thread writes.

    Args:
        stream: The stream whose place it takes.
        kept: Where this thread writes.
        other: Where other threads write.
    """

    def __init__(self, stream: IO[str], kept: IO[str], other: IO[str]):
        self._thread = threading.get_ident()
        self._stream = stream
        self._kept = kept
        self._other = other

    def end(self) -> None:
        """Write where the other stream does: handlers made meanwhile live on."""
        self._kept = self._other = self._stream

    def write(self, text: str) -> int:
        mine = threading.get_ident() == self._thread
        return (self._kept if mine else self._other).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)


@contextlib.contextmanager
def _redirected(file):
    """Let both outputs of the process, and Python's streams, write to a file."""
    with contextlib.ExitStack() as stack:
        _flush_c()
        stack.enter_context(_crashes_shown())
        kept = stack.enter_context(_text(os.dup(file.fileno())))
        replaced = {}
        for number, name in ((1, "stdout"), (2, "stderr")):
            stream = getattr(sys, name)
            # A process without a console may have neither.
            if stream is not None:
                with contextlib.suppress(ValueError):  # it is closed
                    stream.flush()
                other = stream
                if _number(stream) == number:
                    other = stack.enter_context(_text(os.dup(number), stream))
                replaced[stream] = _OfOneThread(stream, kept, other)
                stack.callback(replaced[stream].end)
                stack.callback(setattr, sys, name, stream)
                setattr(sys, name, replaced[stream])
            with contextlib.suppress(OSError):
                saved = os.dup(number)
                stack.callback(os.close, saved)
                stack.callback(os.dup2, saved, number)
                os.dup2(file.fileno(), number)
        for handler in _handlers():
            if handler.stream in replaced:
                stack.callback(handler.setStream, handler.stream)
                handler.setStream(replaced[handler.stream])
        stack.callback(_flush_c)
        yield


def _flush_c():
    """Write what C's own streams hold to where the outputs lead now."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def _crashes_shown():
    """Let Python say on the real error output where the process crashed, if it does."""
    try:
        errors = os.dup(2)
    except OSError:  # there is none
        yield
        return
    enabled = faulthandler.is_enabled()
    try:
        if not enabled:
            faulthandler.enable(errors)
        yield
    finally:
        if not enabled:
            faulthandler.disable()
        os.close(errors)


def _text(number, like=None):
    """Open a file descriptor as a text stream that writes at once."""
    encoding = getattr(like, "encoding", None) or "utf-8"
    return open(number, "w", buffering=1, encoding=encoding, errors="backslashreplace")


def _number(stream):
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # no file, such as a notebook's
        return None


def _handlers():
    """Return the handlers of all loggers that write to a stream."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = {h for each in loggers for h in getattr(each, "handlers", ())}
    return [h for h in found if isinstance(h, logging.StreamHandler)]
