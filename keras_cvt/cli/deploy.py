"""The commands `export`, `verify` and `benchmark`."""

import argparse
import json
import sys

import keras

from keras_cvt import deploy
from keras_cvt._utils.optional import require, tf
from keras_cvt.cli import image_files, loading
from keras_cvt.deploy import formats
from keras_cvt.deploy.fastest import export_fastest
from keras_cvt.description import ModelDescription


def run_export(options: argparse.Namespace) -> int:
    """Export a model; return the exit status."""
    if options.fastest:
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
        representative_images=image_files.read(options.representative, transform),
        batch_size=options.batch_size,
        image_size=size,
        runtime=options.runtime,
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
    others += (options.runtime,)
    if any(others) or "dynamic" in (options.size, options.batch_size):
        raise ValueError(
            "Expected --fastest without --quantization, --no-fuse, --no-verify, "
            "--runtime and `dynamic`: candidates are fused, of one size, and all "
            "measured."
        )
    _set_tensorflow_threads(options.threads)
    model = loading.classifier(options)
    transform = model.eval_transform.at_size(options.size, options.size)
    result = export_fastest(
        model,
        options.out,
        image_files.read(options.images, transform),
        max_drop=options.max_drop,
        batch_size=options.batch_size,
        threads=options.threads,
        representative_images=image_files.read(options.representative, transform),
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
        representative_images=image_files.read(options.representative, transform),
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
        return image_files.read(options.images, transform)
    return deploy.made_up_images(*transform.image_size, channels, count)
