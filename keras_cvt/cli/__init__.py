"""The command line `keras-cvt`.

Keras is imported when a command runs that needs it, not for help or a wrong call: this
module, `arguments` and `listing` do without it.
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
        read, or an exported file failed its verification. A wrong call exits with 2.
    """
    options = _parser().parse_args(words)
    try:
        module = _command_module(_COMMANDS[options.command][0])
        return getattr(module, f"run_{options.command}")(options)
    except (ValueError, OSError, ImportError) as error:
        # Errors of the library name arguments of Python, which are flags here.
        message = str(error).replace("pass config=", "pass --model config.json")
        print(f"keras-cvt: {message}", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """A parser whose help can end with the formats, for which it imports Keras."""

    lists_formats = False

    def format_help(self):
        if self.lists_formats:
            formats = _command_module("deploy").describe_formats()
            self.epilog = f"{formats} {self.epilog or ''}"
        return super().format_help()


def _parser():
    parser = _Parser(
        prog="keras-cvt",
        description="CvT for Keras: list, inspect, classify, convert, export, verify.",
    )
    version = f"keras_cvt {metadata.version('keras_cvt')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text)
        getattr(arguments, f"add_{name}")(command)
        command.lists_formats = name in ("convert", "export", "benchmark")
    return parser


def _command_module(name: str) -> ModuleType:
    """Import the module of a command."""
    package = sys.modules["keras_cvt"]
    if name != "listing" and not hasattr(package, "__version__"):
        # The program of `[project.scripts]` made the package without running it.
        importlib.reload(package)
    return importlib.import_module(f"keras_cvt.cli.{name}")
