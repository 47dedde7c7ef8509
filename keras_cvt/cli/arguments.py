"""Arguments and types that several commands share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keras_cvt.data.folders import list_images
from keras_cvt.deploy import formats
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.images import PathLike, preprocess_files

MODEL_HELP = "cvt13, cvt21, cvtw24, a config.json or a .keras file"


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


def image_paths(names: Sequence[str]) -> list[Path]:
    """Return the paths of image files. Folders are searched for images.

    Raises:
        ValueError: If a folder contains no images.
    """
    paths: list[Path] = []
    for path in map(Path, names):
        found = list_images(path)[0] if path.is_dir() else [path]
        if not found:
            raise ValueError(f"Expected a folder with images. Received: {path}")
        paths += map(Path, found)
    return paths


def read_images(names: Sequence[str], transform: EvalTransform) -> np.ndarray | None:
    """Return the named images, prepared for a model, or None if none are named.

    Files that cannot be read are skipped and listed.

    Raises:
        ValueError: If no image can be read.
    """
    if not names:
        return None
    images, _, unreadable = preprocess_files(image_paths(names), transform)
    if not images:
        path, error = unreadable[0]
        raise ValueError(f"Expected images that can be read. Received: {path}: {error}")
    print_skipped(unreadable)
    return np.stack(images)


def print_skipped(unreadable: Sequence[tuple[PathLike, Exception]]) -> None:
    """List files that cannot be read, with the reasons."""
    for path, error in unreadable:
        print(f"keras-cvt: skipped {path}: {error}", file=sys.stderr)
