"""The programs of `examples/`, run in this process."""

import contextlib
import io
import os
import runpy
import sys
from pathlib import Path
from unittest import mock

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(program, *arguments):
    """Return the exit status, what was printed, and what was printed as errors."""
    printed, errors = io.StringIO(), io.StringIO()
    path = EXAMPLES / program
    with (
        mock.patch.object(sys, "argv", [os.fspath(path), *map(str, arguments)]),
        # Where Python finds the modules beside a program.
        mock.patch.object(sys, "path", [os.fspath(EXAMPLES), *sys.path]),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
    ):
        status = 0
        try:
            runpy.run_path(os.fspath(path), run_name="__main__")
        except SystemExit as exit:
            status = exit.code
            if isinstance(status, str):
                status = 1
                print(exit.code, file=sys.stderr)
    return status, printed.getvalue(), errors.getvalue()
