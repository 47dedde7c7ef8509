"""Progress of long commands: a bar on terminals, lines elsewhere."""

import sys
import time
from typing import Any, Self

from tqdm import tqdm

# Seconds between two lines.
_INTERVAL = 30.0


class LinesInFiles:
    """Lets a class of tqdm's bars write lines where the error output is a file.

    To be the first base, before that class. A line is written every half minute, and
    none where bars are switched off.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        # None: tqdm draws on terminals only.
        self._lines = kwargs.get("disable") is None and not sys.stderr.isatty()
        if self._lines:
            kwargs |= {
                "disable": False,
                "leave": False,
                "delay": _INTERVAL,
                "mininterval": _INTERVAL,
                "miniters": 1,
                "bar_format": "{desc}: {n_fmt}{unit} of {total_fmt}{unit}, {rate_fmt}, "
                "{remaining} left",
            }
        super().__init__(*args, **kwargs)

    def display(self, msg: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Show the state; tqdm calls this."""
        if not self._lines:
            return super().display(msg, *args, **kwargs)  # type: ignore[misc]
        if msg is None:
            print(self, file=sys.stderr, flush=True)
        return False


class Progress:
    """Shows how many of some things are done, with rate and time left.

    It writes to the error output. If that is a terminal, a bar is drawn; otherwise a
    line is written every half minute.

    The first update says how many were done before.

    Args:
        unit: What they are. Defaults to `"image"`.
    """

    def __init__(self, unit: str = "image"):
        self._bar = tqdm(
            unit=unit,
            dynamic_ncols=True,
            # A short run needs no bar.
            delay=1,
            disable=not sys.stderr.isatty(),
        )
        self._unit = unit
        self._first: int | None = None
        self._done = 0
        self._started = self._shown = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Show that so many of all things are done."""
        if self._first is None:
            self._first = self._done = done
            self._started = self._shown = time.monotonic()
            self._bar.total, self._bar.initial, self._bar.n = total, done, done
        self._bar.update(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._bar.disable and now - self._shown >= _INTERVAL:
            self._shown = now
            rate = (done - self._first) / (now - self._started)
            left = tqdm.format_interval((total - done) / rate) if rate else "?"
            print(
                f"{done:,} of {total:,} {self._unit}s, {rate:.1f} a second, "
                f"{left} left",
                file=sys.stderr,
                flush=True,
            )

    def print(self, text: str, error: bool = False) -> None:
        """Print a text, without a bar in it."""
        with self._bar.external_write_mode(sys.stderr if error else sys.stdout):
            print(text, file=sys.stderr if error else sys.stdout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
