"""Measure the accuracy of a CvT and compare it with the published accuracy.

    python examples/evaluate.py --data imagenet2012 --model cvt13 --weights imagenet
    python examples/evaluate.py --data imagenet_v2/matched-frequency --model cvt13
    python examples/evaluate.py --data imagenet2012 --real-labels real.json
    python examples/evaluate.py --data FOLDER --model run/best.keras

`real.json` contains the reassessed labels of ImageNet's validation images (ReaL, arXiv
2006.07159): https://github.com/google-research/reassessed-imagenet. The exit status is
1 if the top-1 accuracy differs from the published one by more than 0.1 points.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
from pathlib import Path

import keras
import numpy as np
import options as common

import keras_cvt
from keras_cvt import data, training

BENCHMARKS = ("imagenet", "imagenet_v2", "imagenet_real")
TOLERANCE = 0.1  # points
_REAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG$")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common.add_data(parser)
    parser.add_argument(
        "--split", default="validation", help="split to use (default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        default="cvt13",
        help=f"{', '.join(common.BUILDERS)} (default: cvt13), or a .keras file",
    )
    parser.add_argument(
        "--weights",
        default="imagenet",
        help="tag, checkpoint or hf://org/repo (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, help="default: %(default)s"
    )
    common.add_precision(parser)
    parser.add_argument(
        "--benchmark",
        choices=BENCHMARKS,
        help="which published accuracy to compare with; needed if --data is a folder",
    )
    parser.add_argument(
        "--real-labels", type=Path, help="path of real.json: use the ReaL labels"
    )
    parser.add_argument(
        "--published",
        type=float,
        metavar="TOP1",
        help="compare with this accuracy, in %%",
    )
    return parser.parse_args()


def load(options):
    """Return the model, and the record of its weights if they are published."""
    training.set_precision(options.precision)
    if options.model.endswith(".keras"):
        return keras.models.load_model(options.model), None
    if options.model not in common.BUILDERS:
        raise SystemExit(
            f"--model must be one of {', '.join(common.BUILDERS)}, or a .keras file. "
            f"Received: {options.model}"
        )
    model = common.builder(options.model)(weights=options.weights)
    return model, keras_cvt.list_weights(options.model).get(options.weights)


def benchmark(options):
    """Return the name in BENCHMARKS of the images, or None."""
    if options.real_labels:
        return "imagenet_real"
    names = {"imagenet2012": "imagenet", "imagenet_v2": "imagenet_v2"}
    return options.benchmark or names.get(re.split("[/:]", options.data)[0])


def published_top1(options, record):
    """Return the published top-1 accuracy in percent, or None if there is none."""
    if options.published is not None:
        return options.published
    # No ReaL accuracy of these weights has been checked.
    fields = {"imagenet": "top1", "imagenet_v2": "imagenet_v2_top1"}
    field = fields.get(benchmark(options))
    return getattr(record, field) if record and field else None


def real_labels(path, names):
    """Return the set of correct labels of each image. Some sets are empty.

    Args:
        path: Path of real.json, a list with a list of labels for each of ImageNet's
            50,000 validation images, in the order of their names.
        names: File names of the images.
    """
    labels = json.loads(path.read_text(encoding="utf-8"))
    indices = []
    for name in names:
        match = _REAL_NAME.search(name)
        if not match or not 1 <= int(match[1]) <= len(labels):
            raise SystemExit(
                f"{path} has labels of ILSVRC2012_val_00000001.JPEG to "
                f"{len(labels):08d}. Received: {name}"
            )
        indices.append(int(match[1]) - 1)
    return [set(labels[i]) for i in indices]


def file_names(source, options):
    if source.files is not None:
        return [os.fsdecode(path) for path, _ in source.files.as_numpy_iterator()]
    import tensorflow_datasets as tfds

    if Path(options.data).is_dir():
        builder = tfds.builder_from_directory(options.data)
    else:
        builder = tfds.builder(options.data, data_dir=options.data_dir)
    examples = builder.as_dataset(
        split=options.split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding({"file_name": True}),
    )
    return [e["file_name"].decode() for e in examples.as_numpy_iterator()]


def hits(scores, labels, top):
    """Return for each image whether one of its `top` best classes is correct.

    Args:
        scores: Scores of the classes, (N, classes).
        labels: N sets of correct labels.
        top: Number of classes that count.
    """
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :top]
    return np.array([not s.isdisjoint(b) for s, b in zip(labels, best, strict=True)])


def main():
    options = parse_arguments()
    model, record = load(options)
    # The check drops damaged images. With ReaL labels of a TFDS data set none may be
    # dropped, because the file names are read separately.
    source = data.open_source(
        options.data,
        options.split,
        data_dir=options.data_dir,
        check_images=not options.real_labels,
    )
    if len(source.class_names) != model.classes:
        raise SystemExit(
            f"Expected images of the model's {model.classes} classes. "
            f"Received: {len(source.class_names)} classes in {options.data}"
        )
    batches = data.evaluation_batches(source, model, options.batch_size)
    scores = model.predict(batches)
    if options.real_labels:
        labels = real_labels(options.real_labels, file_names(source, options))
        counted = np.array([bool(s) for s in labels])
        scores = scores[counted]
        labels = [s for s in labels if s]
    else:
        examples = source.examples if source.files is None else source.files
        labels = [{int(y)} for _, y in examples.as_numpy_iterator()]

    top1, top5 = (100 * hits(scores, labels, n).mean() for n in (1, 5))
    left_out = source.count - len(labels) + len(source.corrupt)
    print(
        f"{options.model} on {source.name}: {len(labels):,} images"
        + (f", {left_out:,} left out" if left_out else "")
    )
    transform = dataclasses.asdict(model.eval_transform)
    print("Transform: " + ", ".join(f"{k} {v}" for k, v in transform.items()))
    print(f"Top-1 {top1:.2f} %, top-5 {top5:.2f} %")
    expected = published_top1(options, record)
    if expected is None:
        print("There is no published figure to compare with.")
        return
    difference = top1 - expected
    agrees = abs(round(difference, 2)) <= TOLERANCE
    print(
        f"Published top-1 {expected:.2f} %: {difference:+.2f} points, "
        + ("they agree" if agrees else "they DO NOT agree")
        + f" within {TOLERANCE}."
    )
    if benchmark(options) == "imagenet" and record and not options.published:
        print(f"Published top-5 {record.top5:.2f} %: {top5 - record.top5:+.2f} points")
    sys.exit(0 if agrees else 1)


if __name__ == "__main__":
    common.run(main)
