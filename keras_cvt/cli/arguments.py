"""The arguments of all commands. Importing this module does not import Keras."""

import argparse
from collections.abc import Callable
from pathlib import Path

from keras_cvt._utils.validation import ACTIVATIONS

BENCHMARKS = ("imagenet", "imagenet_v2", "imagenet_real")
EXPLANATIONS = ("grad_cam", "attention")
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
    _add_weights(command)
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


def add_list(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `list`."""
    add_json(command)


def add_doctor(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `doctor`."""
    command.epilog = "Exit status: 0 if there is no problem, 1 otherwise."
    add_flag(
        command,
        "--weights",
        "compare the published files on the Hub with the recorded hashes, and the "
        "published CvT-13 with its known logits; needs a network",
    )
    command.add_argument(
        "--photo",
        metavar="FILE",
        help="with --weights: COCO's image 000000039769, the photo of these logits "
        "(default: it is downloaded)",
    )
    add_json(command)


def add_info(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `info`."""
    command.add_argument("model", help=MODEL_HELP)
    default = "that of the .keras file if it is fixed, or 224"
    add_number(command, "--size", "image size in pixels", default)
    default = "1000, or that of the .keras file"
    add_number(command, "--classes", "number of classes", default)
    add_json(command)


def add_predict(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict`."""
    command.epilog = (
        "Exit status: 0 if all images were read, 1 if some were skipped. --json prints "
        "the results, or with --output a summary."
    )
    command.add_argument(
        "images", nargs="*", metavar="IMAGE", help="image files or folders"
    )
    command.add_argument(
        "--images-from",
        metavar="FILE",
        help="text file with the path of an image in each line",
    )
    command.add_argument(
        "--output",
        metavar="FILE",
        help="write the results to a .jsonl, .csv or .parquet file, for images of any "
        "number (default: print them)",
    )
    add_flag(command, "--resume", "continue an --output that was interrupted")
    command.add_argument(
        "--model",
        default="cvt13",
        help=f"{MODEL_HELP}, or what `export` wrote (default: cvt13)",
    )
    add_weights(command)
    add_number(command, "--top", "number of classes per image", 5)
    add_number(command, "--batch-size", "images per step", 8)
    text, default = "threads that read images", "one for each processor"
    add_number(command, "--workers", text, default)
    command.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="compute on a Ray cluster: its address, `auto` for the running one, or "
        "`local` to start one here; --output is then a folder of Parquet files",
    )
    text = "with --ray: processes that each hold the model on one processor"
    add_number(command, "--actors", text, "1")
    add_json(command)


def add_evaluate(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    command.epilog = (
        "Exit status: 0, or 1 if the top-1 accuracy differs from the published one by "
        "more than 0.1 points. Images that cannot be read are left out and listed."
    )
    command.add_argument(
        "data",
        help="a folder with a folder of images for each class, or with such folders "
        "in train/, validation/ (or val/, valid/, test/); the directory of a prepared "
        "data set of TensorFlow Datasets; or the name of one, such as imagenet2012 or "
        "imagenet_v2. Folders are named as the model's classes, or by WordNet ids",
    )
    command.add_argument(
        "--model",
        help=f"{MODEL_HELP}, what `export` wrote, or a folder that `convert` wrote "
        "(default: the folder of --write, or cvt13)",
    )
    add_weights(command)
    command.add_argument(
        "--split",
        help="split to evaluate (default: validation, or the folder as it is)",
    )
    command.add_argument(
        "--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets' data"
    )
    command.add_argument(
        "--real-labels",
        metavar="FILE",
        help="real.json: use the reassessed labels (ReaL) of ImageNet's validation "
        "images",
    )
    command.add_argument(
        "--benchmark",
        choices=BENCHMARKS,
        help="what a folder's images are, to compare with the published accuracy",
    )
    command.add_argument(
        "--published",
        type=float,
        metavar="TOP1",
        help="compare with this top-1 accuracy, in percent",
    )
    command.add_argument(
        "--dataset",
        metavar="NAME",
        help="what to call the images (default: the name of the data set or folder)",
    )
    add_number(command, "--batch-size", "images per step", 64)
    text, default = "threads that read images", "one for each processor"
    add_number(command, "--workers", text, default)
    add_number(command, "--threads", "threads of an exported file's runtime", "all")
    command.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        help="precision of the computation; weights stay float32 (default: float32, or "
        "that of the file)",
    )
    text = "intervals of the score, for the calibration error"
    add_number(command, "--bins", text, 15)
    add_number(command, "--worst", "rows of the table of the worst classes", 10)
    command.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw the calibration, the classes and what the worst are taken for",
    )
    command.add_argument(
        "--write",
        type=Path,
        metavar="FOLDER",
        help="add the result to the model card and verification.json of a model's "
        "folder, as `convert hf://... --dry-run` writes it to --folder",
    )
    add_json(command)


def add_explain(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `explain`."""
    command.epilog = "Exit status: 0 if all images were read, 1 if some were skipped."
    command.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image files or folders"
    )
    command.add_argument(
        "--method",
        choices=EXPLANATIONS,
        default=EXPLANATIONS[0],
        help="grad_cam: what raises each class's score; attention: what the class "
        "token reads, whatever the class (default: %(default)s)",
    )
    command.add_argument(
        "--output",
        default="explanation.png",
        metavar="FILE.png",
        help="picture to write, a row for each image (default: %(default)s)",
    )
    _add_default_model(command)
    add_weights(command)
    text = "number of classes, each with a heat map by grad_cam"
    add_number(command, "--top", text, 3)
    add_number(command, "--batch-size", "images per step", 8)
    add_json(command)


def add_embed(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `embed`."""
    command.epilog = "Exit status: 0 if all images were read, 1 if some were skipped."
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files or folders; if it is one folder with a folder of images for "
        "each class, the classes are saved as well",
    )
    command.add_argument(
        "out",
        metavar="FEATURES.npz",
        help="file to write: features (N, C), paths relative to its folder, metadata, "
        "and labels and class_names if the classes are known",
    )
    add_features(command)
    add_json(command)


def add_features(command: argparse.ArgumentParser) -> None:
    """Add the options of a program that embeds images."""
    _add_default_model(command)
    _add_weights(command)
    add_number(command, "--batch-size", "images per step", 8)


def add_convert(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert`."""
    command.add_argument(
        "checkpoint",
        nargs="?",
        help="checkpoint file or folder, .keras file, hf://org/repo or published name",
    )
    command.add_argument(
        "out",
        help=".keras, .weights.h5, .safetensors or .pth file, or a folder in the "
        "layout of transformers; hf://org/repo writes, verifies, describes and pushes "
        "a whole repository",
    )
    add_flag(
        command,
        "--all",
        "convert the seven published weights to hf://org; a second call continues "
        "where the first stopped",
    )
    command.add_argument(
        "--folder",
        type=Path,
        default=Path("releases"),
        help="where repositories are written before the push (default: %(default)s)",
    )
    add_flag(command, "--dry-run", "write the repository, do not push it")
    add_flag(command, "--public", "make new repositories public")
    add_flag(
        command,
        "--page",
        "also push a static Space of the same name with a web page that classifies "
        "photos in the visitor's browser",
    )
    command.add_argument(
        "--exports",
        nargs="+",
        default=(),
        metavar="NAME",
        help="exported files to add to the repository, each verified, see below",
    )
    add_images(
        command,
        "--representative",
        "for int8 calibration and for the verification of the exported files",
    )
    command.add_argument("--model", help=f"{MODEL_HELP} (default: recognised)")
    command.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="activation of the network (default: that of the checkpoint)",
    )
    command.add_argument(
        "--reference",
        help=".npz with `input` (B, H, W, C) and `logits` to compare with",
    )
    command.add_argument(
        "--tolerance", type=float, help="largest allowed difference of a logit"
    )


def add_export(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    command.epilog = (
        "Exit status: 0 if the file passed, 1 if it failed, or if --fastest found no "
        "candidate within --max-drop and kept float32."
    )
    add_model(command)
    command.add_argument(
        "out",
        help="a folder, or a file with the suffix of a format; with --fastest without "
        "a suffix, which is added, or with that of the only format to try",
    )
    choice = command.add_mutually_exclusive_group()
    choice.add_argument(
        "--format",
        metavar="NAME",
        help="format of the file, see below (default: by the suffix of OUT)",
    )
    choice.add_argument(
        "--fastest",
        action="store_true",
        help="export every format and quantization, measure each here on --images, and "
        "keep the fastest within --max-drop",
    )
    command.add_argument(
        "--max-drop",
        type=float,
        metavar="PERCENT",
        help="with --fastest: percent of the images that may get another best class "
        "than the model's; 0.1 is one image of 1000 (default: 0.1)",
    )
    text = "with --fastest: threads of each runtime"
    add_number(command, "--threads", text, "all")
    command.add_argument(
        "--quantization",
        metavar="NAME",
        help="number format of the weights, or of the computation, see below (default: "
        "that of --format, or float32)",
    )
    add_images(
        command,
        "--representative",
        "for int8 calibration",
        "none; with --fastest those of --images",
    )
    number = positive_or_dynamic
    text, default = "images per call, or `dynamic`", "see below; 1 with --fastest"
    add_number(command, "--batch-size", text, default, number)
    text, default = "image size in pixels, or `dynamic`", "that of the weights"
    add_number(command, "--size", text, default, number)
    command.add_argument(
        "--runtime",
        metavar="FOLDER",
        help="for a web page: a folder with the files of ONNX Runtime Web, `dist` of "
        "the npm package onnxruntime-web, to copy into the page (default: the page "
        "loads them from cdn.jsdelivr.net)",
    )
    add_flag(command, "--no-fuse", "do not fuse the network's operations")
    add_flag(command, "--no-verify", "do not run the exported file")
    _add_comparison(command)


def add_verify(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    command.epilog = "Exit status: 0 if the file passed, 1 if it failed."
    add_model(command)
    command.add_argument("file", help="file or folder that `export` wrote")
    _add_comparison(command)


def add_benchmark(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark`."""
    command.epilog = "Exit status: 0 if every file that ran passed, 1 if one failed."
    add_model(command)
    command.add_argument(
        "--formats",
        nargs="+",
        metavar="NAME",
        help="what to measure: fused or a format, see below (default: all)",
    )
    default = "that of the weights"
    add_number(command, "--size", "image size in pixels", default)
    add_number(command, "--batch-size", "images per call", 1)
    add_number(command, "--threads", "threads of each runtime", "all")
    add_images(
        command, "--representative", "for int8 calibration", "the compared images"
    )
    command.add_argument(
        "--output", metavar="FOLDER", help="keep the files in this folder"
    )
    command.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw speed against agreement"
    )
    _add_comparison(command)


def _add_comparison(command):
    add_images(command, "--images", "to compare on", "8 synthetic images")
    add_json(command)


def _add_default_model(command):
    command.add_argument(
        "--model", default="cvt13", help=f"{MODEL_HELP} (default: cvt13)"
    )


def _add_weights(command):
    command.add_argument(
        "--weights",
        help="a published tag, a checkpoint or hf://org/repo (default: imagenet, or "
        "the weights of the .keras file)",
    )
