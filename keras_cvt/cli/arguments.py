"""Arguments and types that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path

from keras_cvt.deploy import formats

MODEL_HELP = "cvt13, cvt21, cvtw24, a config.json or a .keras file"

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def positive(text: str) -> int:
    """Return the integer that an argument is, which must be at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {number}")
    return number


def positive_or_dynamic(text: str) -> int | str:
    """Return a positive integer, or the word `dynamic`."""
    return text if text == "dynamic" else positive(text)


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the positional argument MODEL, and the options of `add_weights`."""
    command.add_argument("model", help=MODEL_HELP)
    add_weights(command)


def add_weights(command: argparse.ArgumentParser) -> None:
    """Add the options that `loading.classifier` reads besides the model."""
    command.add_argument(
        "--weights",
        help="a published tag, a checkpoint or hf://org/repo (default: imagenet, or "
        "the weights of the .keras file)",
    )
    command.add_argument(
        "--class-names",
        "--labels",
        metavar="FILE",
        help="class names: a text file with one name per line, or a JSON list",
    )


def add_number(
    command: argparse.ArgumentParser,
    name: str,
    purpose: str,
    default: int | str,
    type: Callable[[str], int | str] = positive,
) -> None:
    """Add an option that takes a number of at least 1.

    Args:
        command: The parser of the command.
        name: Name of the option.
        purpose: Meaning of the number.
        default: Its default, or a text that describes it if the default is None.
        type: `positive` or `positive_or_dynamic`. Defaults to `positive`.
    """
    command.add_argument(
        name,
        type=type,
        metavar="N",
        default=default if isinstance(default, int) else None,
        help=f"{purpose} (default: {default})",
    )


def add_flag(command: argparse.ArgumentParser, name: str, effect: str) -> None:
    """Add an option without a value."""
    command.add_argument(name, action="store_true", help=effect)


def add_json(command: argparse.ArgumentParser) -> None:
    """Add the option `--json`."""
    add_flag(command, "--json", "print JSON")


def add_images(
    command: argparse.ArgumentParser, name: str, purpose: str, default: str = "none"
) -> None:
    """Add an option that takes image files and folders.

    Args:
        command: The parser of the command.
        name: Name of the option.
        purpose: What the images are for.
        default: What is used without the option. Defaults to `"none"`.
    """
    command.add_argument(
        name,
        nargs="+",
        default=(),
        metavar="IMAGE",
        help=f"image files or folders {purpose} (default: {default})",
    )


def format_names() -> list[str]:
    """Return the names of all export formats, then their aliases."""
    aliases = [a for record in formats.FORMATS.values() for a in record.aliases]
    return [*formats.variants(), *aliases]


def image_paths(names: list[str]) -> list[Path]:
    """Return the paths of image files. Folders are searched for images.

    Raises:
        ValueError: If a folder contains no images.
    """
    paths = []
    for path in map(Path, names):
        found = [path]
        if path.is_dir():
            files = path.rglob("*")
            found = sorted(p for p in files if p.suffix.lower() in _IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"Expected a folder with images. Received: {path}")
        paths += found
    return paths
