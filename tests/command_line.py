"""The command line, run in this process."""

import contextlib
import io

from keras_cvt import cli


def run(*arguments):
    """Return the exit status, what was printed, and what was printed as errors."""
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        status = cli.main(list(map(str, arguments)))
    return status, printed.getvalue(), errors.getvalue()
