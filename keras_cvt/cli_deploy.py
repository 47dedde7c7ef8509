"""The commands `keras-cvt export`, `keras-cvt verify` and `keras-cvt benchmark`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path


def add_commands(
    commands: argparse._SubParsersAction,
    model_help: str,
    load: Callable,
    image_paths: Callable,
) -> None:
    """Add the commands to a parser's.

    Args:
        commands: What `add_subparsers` returned.
        model_help: What a model's argument may be.
        load: From options to the classifier and its labels.
        image_paths: From names of files and folders to paths of images.
    """
    command = commands.add_parser(
        "export", help="a SavedModel, LiteRT, ONNX or OpenVINO file, verified"
    )
    command.add_argument("model", help=model_help)
    command.add_argument("out", help="folder, .tflite, .onnx or .xml")
    command.add_argument(
        "--format",
        choices=("tf_saved_model", "litert", "onnx", "openvino"),
        help="default: by the suffix of OUT; a SavedModel has none",
    )
    command.add_argument(
        "--quantization",
        choices=("float16", "dynamic_int8", "int8"),
        help="default: float32",
    )
    command.add_argument(
        "--representative",
        nargs="+",
        metavar="IMAGE",
        help="files or folders to calibrate int8 on",
    )
    command.add_argument(
        "--batch-size",
        type=_size,
        help="images a call, or `dynamic` (default: 1 for LiteRT, else dynamic)",
    )
    command.add_argument(
        "--size", type=_size, help="pixels, or `dynamic` (default: the weights' own)"
    )
    command.add_argument(
        "--no-fuse", action="store_true", help="export the network as it is"
    )
    command.add_argument(
        "--no-verify", action="store_true", help="do not run the file afterwards"
    )
    _add_shared(command)
    command.set_defaults(command=_export, load=load, image_paths=image_paths)

    command = commands.add_parser(
        "verify",
        help="run an exported file and compare it with its model",
        epilog="Exit status: 0 if the file passed, 1 if it failed.",
    )
    command.add_argument("model", help=model_help)
    command.add_argument("file", help="what `export` wrote")
    _add_shared(command)
    command.set_defaults(command=_verify, load=load, image_paths=image_paths)

    command = commands.add_parser(
        "benchmark",
        help="speed, size and agreement of every format on this machine",
        epilog="Exit status: 0 if every file that ran passed, 1 if one failed.",
    )
    command.add_argument("model", help=model_help)
    command.add_argument(
        "--formats",
        nargs="+",
        metavar="NAME",
        help="of keras, fused, saved_model, litert, litert_float16, "
        "litert_dynamic_int8, litert_int8, onnx, openvino, openvino_float16 "
        "(default: all)",
    )
    command.add_argument(
        "--size", type=_positive, help="pixels (default: the weights' own)"
    )
    command.add_argument(
        "--batch-size", type=_positive, default=1, help="images a call (default: 1)"
    )
    command.add_argument(
        "--threads", type=_positive, help="of every runtime (default: all)"
    )
    command.add_argument(
        "--representative",
        nargs="+",
        metavar="IMAGE",
        help="files or folders to calibrate int8 on (default: the compared images)",
    )
    command.add_argument(
        "--output", metavar="FOLDER", help="new or empty folder where the files stay"
    )
    command.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw speed against agreement"
    )
    _add_shared(command)
    command.set_defaults(command=_benchmark, load=load, image_paths=image_paths)


def _add_shared(command):
    command.add_argument(
        "--weights",
        help="a published tag, a checkpoint or hf://org/repo (default: imagenet, or a "
        ".keras file's own)",
    )
    command.add_argument(
        "--labels", help="the classes' names: a text file, one a line, or a JSON list"
    )
    command.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="files or folders to compare on (default: 8 made-up images)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _size(text):
    return text if text == "dynamic" else _positive(text)


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, received {number}")
    return number


def _export(options):
    from keras_cvt import deploy

    out_format = options.format or _format(options.out)
    if options.quantization == "int8" and options.representative is None:
        raise ValueError("int8 needs images to calibrate on: --representative IMAGE...")
    model, labels = options.load(options)
    size = options.size
    metadata = deploy.export(
        model,
        options.out,
        out_format,
        options.quantization,
        not options.no_fuse,
        _images(options, options.representative, model, size),
        batch_size=options.batch_size,
        image_size=(size, size) if isinstance(size, int) else size,
        labels=labels or None,
        source_weights=_source(options),
    )
    if options.no_verify:
        print(
            json.dumps(metadata, indent=2) if options.json else f"saved {options.out}"
        )
        return 0
    return _compare(options, model, options.out)


def _verify(options):
    model, _ = options.load(options)
    return _compare(options, model, options.file)


def _compare(options, model, path):
    from keras_cvt import deploy

    described = deploy.read_metadata(path)["input"]
    height, width = (
        size or own
        for size, own in zip(
            described["image_size"], model.eval_transform.image_size, strict=True
        )
    )
    images = _images(options, options.images, model, (height, width))
    if images is None:
        images = deploy.made_up_images(height, width, described["channels"])
    result = deploy.verify(model, path, images)
    print(json.dumps(result.to_dict(), indent=2) if options.json else result)
    return 0 if result.passed else 1


def _benchmark(options):
    from keras_cvt import deploy
    from keras_cvt.deploy.packages import require

    if options.plot is not None:
        # Before minutes of work, not after them.
        if options.plot.suffix != ".png":
            raise ValueError(f"Expected --plot FILE.png. Received: {options.plot}")
        require("matplotlib", "train")
    _set_tensorflow_threads(options.threads)
    model, labels = options.load(options)
    size = options.size or model.eval_transform.image_size
    images = _images(options, options.images, model, size)
    if images is None:
        height, width = (size, size) if isinstance(size, int) else size
        images = deploy.made_up_images(
            height, width, model.input.shape[-1], max(8, options.batch_size)
        )
    result = deploy.benchmark(
        model,
        images,
        options.output,
        options.formats or tuple(deploy.FORMATS),
        batch_size=options.batch_size,
        threads=options.threads,
        representative_images=_images(options, options.representative, model, size),
        labels=labels or None,
        source_weights=_source(options),
        progress=lambda name: print(f"{name} ...", file=sys.stderr, flush=True),
    )
    if options.plot is not None:
        result.plot(options.plot)
    print(json.dumps(result.to_dict(), indent=2) if options.json else result)
    return 0 if result.passed else 1


def _set_tensorflow_threads(threads):
    """Give TensorFlow, whose count is the whole process's, as many threads."""
    import keras

    if threads is None or keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise ValueError(
            "Expected --threads in a process in which TensorFlow has computed nothing "
            f"yet. Received: threads={threads}"
        ) from error


def _images(options, names, model, size):
    """Return images made as the model's, or None where none are named."""
    if names is None:
        return None
    from keras_cvt.preprocessing import EvalTransform, preprocess_input

    transform = model.eval_transform
    if isinstance(size, int):
        size = (size, size)
    if isinstance(size, tuple):
        transform = EvalTransform(size, transform.crop_ratio)
    return preprocess_input(options.image_paths(names), transform)


def _format(out):
    formats = {".tflite": "litert", ".onnx": "onnx", ".xml": "openvino"}
    suffix = Path(out).suffix
    if suffix and suffix not in formats:
        raise ValueError(
            "Expected OUT to end in .tflite, .onnx or .xml, or a folder without a "
            f"suffix; --format says otherwise. Received: {out}"
        )
    return formats.get(suffix, "tf_saved_model")


def _source(options):
    if options.model.endswith(".keras"):
        return Path(options.model).name
    return f"{options.model}/{options.weights or 'imagenet'}"
