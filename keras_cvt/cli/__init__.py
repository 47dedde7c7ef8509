"""The command line `keras-cvt`.

Keras is imported when a command runs that needs it, and for the help of commands that
list the formats. Wrong calls and other help do without it: this module, `arguments` and
`listing` import none of it.
"""

import argparse
import importlib
import sys
from importlib import metadata
from types import ModuleType

from keras_cvt.cli import arguments

# Name -> module with its function `run_<name>`, and the help text.
_COMMANDS = {
    "list": ("listing", "list the published networks and weights"),
    "info": ("info", "show the layers, parameters and MACs of a model"),
    "predict": ("predict", "classify images"),
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
        # Errors of the library name arguments of Python, which are flags here.
        message = str(error).replace("pass config=", "pass --model config.json")
        message = message.replace("`resume=True`", "--resume")
        print(f"keras-cvt: {message}", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """A parser whose help can end with the formats, for which it imports Keras."""

    lists_formats = False

    def format_help(self):
        epilog = self.epilog
        if self.lists_formats:
            try:
                formats = _command_module("deploy").describe_formats()
            except ImportError as error:
                formats = f"Formats: unknown, because of an error: {error}."
            self.epilog = f"{formats} {epilog or ''}"
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
    if name != "listing" and not hasattr(package, "__version__"):
        # The program of `[project.scripts]` made the package without running it.
        importlib.reload(package)
    return importlib.import_module(f"keras_cvt.cli.{name}")
