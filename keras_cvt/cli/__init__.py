"""The command line `keras-cvt`.

Keras is imported when a command runs that needs it. Help and wrong calls do without it:
this module, `arguments`, `format_help` and `listing` import none of it.
"""

import argparse
import importlib
import os
import re
import sys
from importlib import metadata
from types import ModuleType

from keras_cvt._utils import foreign_output
from keras_cvt.cli import arguments, format_help

# Name -> module with its function `run_<name>`, and the help text.
_COMMANDS = {
    "list": ("listing", "list the published networks and weights"),
    "doctor": ("doctor", "find out what works in this environment"),
    "info": ("info", "show the layers, parameters and MACs of a model"),
    "predict": ("predict", "classify images"),
    "evaluate": ("evaluate", "measure the accuracy of a model on labelled images"),
    "explain": ("explain", "draw what in images made the answer"),
    "embed": ("embed", "save the features of images"),
    "convert": ("convert", "convert a checkpoint, compare and save it"),
    "export": ("deploy", "export a model to another format and verify it"),
    "verify": ("deploy", "compare an exported file with its model"),
    "benchmark": ("deploy", "measure all formats on this machine"),
}


def main(words: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        words: The words after `keras-cvt`. Defaults to `None`: those of the process.

    Returns:
        The exit status. 0: success. 1: an error was printed, some images could not be
        read, or an exported file failed its verification. A call that the parser
        refuses exits with 2.
    """
    options = _parser().parse_args(words)
    try:
        module = _command_module(_COMMANDS[options.command][0])
        return getattr(module, f"run_{options.command}")(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"keras-cvt: {_with_flags(str(error), options)}", file=sys.stderr)
        return 1


def _with_flags(message, options):
    """Return an error of the library, which names arguments of Python, with flags."""
    for argument, flag in (
        ("pass config=", "pass --model config.json"),
        ("config= and activation=", "--model and --activation"),
        ("`resume=True`", "--resume"),
    ):
        message = message.replace(argument, flag)
    # The weights of `convert` are an argument without a name.
    flag = "--weights " if hasattr(options, "weights") else ""
    return re.sub(r"weights='([^']*)'", rf"{flag}\1", message)


class _Parser(argparse.ArgumentParser):
    """A parser whose help can end with the formats."""

    lists_formats = False

    def format_help(self):
        epilog = self.epilog
        if self.lists_formats:
            self.epilog = f"{format_help.describe_formats()} {epilog or ''}"
        text = super().format_help()
        self.epilog = epilog
        return text


def _parser():
    parser = _Parser(
        prog="keras-cvt",
        description="CvT for Keras: list, inspect, classify, convert, export, verify.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text)
        getattr(arguments, f"add_{name}")(command)
        command.lists_formats = name in ("convert", "export", "benchmark")
    return parser


def _version():
    # `keras_cvt.__version__` would import Keras.
    try:
        return f"keras_cvt {metadata.version('keras_cvt')}"
    except metadata.PackageNotFoundError:
        return "keras_cvt, not installed"


def _command_module(name: str) -> ModuleType:
    """Import the module of a command."""
    package = sys.modules["keras_cvt"]
    # Who asks for TensorFlow's log gets all of it. Others do not get the lines that it
    # prints on import, some of which no TF_CPP_MIN_LOG_LEVEL silences. JAX sets 1.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        foreign_output.show()
    with foreign_output.kept_back():
        return _import_module(package, name)


def _import_module(package, name):
    if name not in ("listing", "doctor") and not hasattr(package, "__version__"):
        # The program of `[project.scripts]` made the package without running it.
        importlib.reload(package)
    return importlib.import_module(f"keras_cvt.cli.{name}")
