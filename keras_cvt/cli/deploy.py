"""The commands `export`, `verify` and `benchmark`."""

import argparse
import json
import sys
from pathlib import Path

import keras

from keras_cvt import deploy
from keras_cvt._utils.optional import require, tf
from keras_cvt.cli import arguments, loading
from keras_cvt.deploy import formats
from keras_cvt.deploy.fastest import FASTEST, export_fastest
from keras_cvt.description import ModelDescription


def add_export(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    records = formats.FORMATS.values()
    suffixes = ", ".join(record.suffix for record in records if record.suffix)
    quantizations = {q: None for record in records for q in record.quantizations if q}
    fixed = [r for r in records if r.default_batch_size]
    batch = "".join(f"{r.default_batch_size} for {r.title}, " for r in fixed)
    names = arguments.format_names()
    command.epilog = (
        "Exit status: 0 if the file passed, 1 if it failed, or if --fastest found no "
        "candidate within --max-drop and kept float32."
    )
    arguments.add_model(command)
    command.add_argument(
        "out",
        help=f"folder, or a file that ends in {suffixes}; with --fastest without a "
        "suffix, which is added, or with that of the only format to try",
    )
    choice = command.add_mutually_exclusive_group()
    choice.add_argument(
        "--format",
        choices=names,
        metavar="NAME",
        help=f"one of {', '.join(names)} (default: by the suffix of OUT)",
    )
    choice.add_argument(
        "--fastest",
        dest="format",
        action="store_const",
        const=FASTEST,
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
    arguments.add_number(command, "--threads", text, "all")
    command.add_argument(
        "--quantization",
        choices=tuple(quantizations),
        help="number format of the weights, or of the computation (default: that of "
        "--format, or float32)",
    )
    arguments.add_images(
        command,
        "--representative",
        "for int8 calibration",
        "none; with --fastest those of --images",
    )
    number = arguments.positive_or_dynamic
    text, default = "images per call, or `dynamic`", f"{batch}else dynamic"
    default += "; 1 with --fastest"
    arguments.add_number(command, "--batch-size", text, default, number)
    text, default = "image size in pixels, or `dynamic`", "that of the weights"
    arguments.add_number(command, "--size", text, default, number)
    arguments.add_flag(command, "--no-fuse", "do not fuse the network's operations")
    arguments.add_flag(command, "--no-verify", "do not run the exported file")
    _add_comparison(command)


def add_verify(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    command.epilog = "Exit status: 0 if the file passed, 1 if it failed."
    arguments.add_model(command)
    command.add_argument("file", help="file or folder that `export` wrote")
    _add_comparison(command)


def add_benchmark(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `benchmark`."""
    command.epilog = "Exit status: 0 if every file that ran passed, 1 if one failed."
    arguments.add_model(command)
    command.add_argument(
        "--formats",
        nargs="+",
        default=tuple(deploy.FORMATS),
        metavar="NAME",
        help=f"some of {', '.join(deploy.FORMATS)} (default: all)",
    )
    default = "that of the weights"
    arguments.add_number(command, "--size", "image size in pixels", default)
    arguments.add_number(command, "--batch-size", "images per call", 1)
    arguments.add_number(command, "--threads", "threads of each runtime", "all")
    arguments.add_images(
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
    arguments.add_images(command, "--images", "to compare on", "8 synthetic images")
    arguments.add_json(command)


def run_export(options: argparse.Namespace) -> int:
    """Export a model; return the exit status."""
    if options.format == FASTEST:
        return _export_fastest(options)
    if options.max_drop is not None or options.threads is not None:
        raise ValueError("Expected --max-drop and --threads with --fastest only.")
    name = options.format or formats.for_path(options.out).name
    variant = formats.find_variant(name, options.quantization)
    if variant.needs_images and not options.representative:
        raise ValueError(
            f"Expected --representative IMAGE... to calibrate. Received: {variant.name}"
        )
    model = loading.classifier(options)
    transform, size = model.eval_transform, options.size
    if isinstance(size, int):
        size = (size, size)
        transform = transform.at_size(*size)
    metadata = deploy.export(
        model,
        options.out,
        variant.name,
        fuse=not options.no_fuse,
        representative_images=arguments.read_images(options.representative, transform),
        batch_size=options.batch_size,
        image_size=size,
    )
    if options.no_verify:
        saved = f"saved {options.out}"
        print(json.dumps(metadata, indent=2) if options.json else saved)
        return 0
    return _compare(options, model, options.out)


def _export_fastest(options):
    if not options.images:
        raise ValueError(
            "Expected --images IMAGE... to measure and compare the candidates on. "
            "Received: --fastest without --images"
        )
    others = (options.quantization, options.no_fuse, options.no_verify)
    if any(others) or "dynamic" in (options.size, options.batch_size):
        raise ValueError(
            "Expected --fastest without --quantization, --no-fuse, --no-verify and "
            "`dynamic`: candidates are fused, of one size, and all measured."
        )
    _set_tensorflow_threads(options.threads)
    model = loading.classifier(options)
    transform = model.eval_transform.at_size(options.size, options.size)
    result = export_fastest(
        model,
        options.out,
        arguments.read_images(options.images, transform),
        max_drop=options.max_drop,
        batch_size=options.batch_size,
        threads=options.threads,
        representative_images=arguments.read_images(options.representative, transform),
        progress=_print_name,
    )
    return _print_result(options, result)


def run_verify(options: argparse.Namespace) -> int:
    """Verify an exported file; return the exit status."""
    return _compare(options, loading.classifier(options), options.file)


def _compare(options, model, path):
    described = ModelDescription.from_dict(deploy.read_metadata(path))
    if described.outputs == "logits":
        # Python exports the head as it is.
        model = model.with_activation(None)
    transform = model.eval_transform.at_size(*described.image_size)
    images = _images(options, transform, described.channels)
    return _print_result(options, deploy.verify(model, path, images))


def run_benchmark(options: argparse.Namespace) -> int:
    """Compare the formats; return the exit status."""
    if options.plot is not None:
        # Checked first, because the measurements take minutes.
        if options.plot.suffix != ".png":
            raise ValueError(f"Expected --plot FILE.png. Received: {options.plot}")
        require("matplotlib", "train")
    _set_tensorflow_threads(options.threads)
    model = loading.classifier(options)
    transform = model.eval_transform.at_size(options.size, options.size)
    count = max(8, options.batch_size)
    result = deploy.benchmark(
        model,
        _images(options, transform, model.channels, count),
        options.output,
        options.formats,
        batch_size=options.batch_size,
        threads=options.threads,
        representative_images=arguments.read_images(options.representative, transform),
        progress=_print_name,
    )
    if options.plot is not None:
        result.plot(options.plot)
    return _print_result(options, result)


def _print_name(name):
    print(f"{name} ...", file=sys.stderr, flush=True)


def _print_result(options, result):
    print(json.dumps(result.to_dict(), indent=2) if options.json else result)
    return 0 if result.passed else 1


def _set_tensorflow_threads(threads):
    """Set the number of threads of TensorFlow, which the whole process shares."""
    if threads is None or keras.backend.backend() != "tensorflow":
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise ValueError(
            "Expected --threads in a process in which TensorFlow has computed nothing "
            f"yet. Received: threads={threads}"
        ) from error


def _images(options, transform, channels, count=8):
    """Return the images to compare on: those of `--images`, or synthetic ones."""
    if options.images:
        return arguments.read_images(options.images, transform)
    return deploy.made_up_images(*transform.image_size, channels, count)
