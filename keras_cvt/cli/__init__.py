"""The command line `keras-cvt`."""

import argparse
import importlib
import sys

# Name -> module with its functions `add_<name>` and `run_<name>`, and the help text.
_COMMANDS = {
    "list": ("info", "list the published networks and weights"),
    "info": ("info", "show the layers, parameters and MACs of a model"),
    "predict": ("predict", "classify images"),
    "convert": ("convert", "convert a checkpoint, compare and save it"),
    "export": ("deploy", "export a model to another format and verify it"),
    "verify": ("deploy", "compare an exported file with its model"),
    "benchmark": ("deploy", "measure all formats on this machine"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after `keras-cvt`. Defaults to `None`: those of the
            process.

    Returns:
        The exit status. 0: success. 1: an error was printed, some images could not be
        read, or an exported file failed its verification. A wrong call exits with 2.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments[:1]).parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError, ImportError) as error:
        # Errors of the library name arguments of Python, which are flags here.
        message = str(error).replace("pass config=", "pass --model config.json")
        print(f"keras-cvt: {message}", file=sys.stderr)
        return 1


def _parser(chosen):
    """Return the parser, with the arguments of the chosen command only.

    Only the module of that command is imported, because it imports the library.
    """
    parser = argparse.ArgumentParser(
        prog="keras-cvt",
        description="CvT for Keras: list, inspect, classify, convert, export, verify.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module_name, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name in chosen:
            module = importlib.import_module(f"keras_cvt.cli.{module_name}")
            getattr(module, f"add_{name}")(command)
            command.set_defaults(run=getattr(module, f"run_{name}"))
    return parser
