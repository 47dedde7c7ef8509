"""The command `predict`."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_cvt._utils.tables import render
from keras_cvt.cli import image_files, loading
from keras_cvt.data.folders import printable
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing.images import PathLike, preprocess_files
from keras_cvt.preprocessing.predictions import imagenet_classes


def run_predict(options: argparse.Namespace) -> int:
    """Classify images; return the exit status."""
    paths = image_files.list_paths(options.images)
    model = loading.classifier(options)
    classes = describe_classes(model)
    results: list[dict] = []
    unreadable: list[tuple] = []
    starts = range(0, len(paths), options.batch_size)
    # No progress bar for a single batch. None shows it on terminals only.
    for start in tqdm(starts, unit="batch", disable=None if len(starts) > 1 else True):
        batch = paths[start : start + options.batch_size]
        results += _classify(model, classes, batch, options.top, unreadable)
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        rows = [
            [
                printable(row["image"]) if i == 0 else "",
                entry["label"],
                100 * entry["score"],
            ]
            for row in results
            for i, entry in enumerate(row["predictions"])
        ]
        if rows:
            print(render(["image", "label", "score %"], rows))
    image_files.print_skipped(unreadable)
    return 1 if unreadable else 0


def describe_classes(model: CvTModel) -> list[dict[str, str]]:
    """Return what is printed about each class: its name, and ImageNet's wnid."""
    names = model.class_names
    imagenet = imagenet_classes()
    unknown = names is None and model.classes == len(imagenet)
    if unknown or names == tuple(name for _, name in imagenet):
        return [{"wnid": wnid, "label": name} for wnid, name in imagenet]
    return [{"label": n} for n in names or map("class {}".format, range(model.classes))]


def _classify(model, classes, paths, top, unreadable):
    images, readable, failed = preprocess_files(paths, model)
    unreadable += failed
    if not images:
        return []
    scores = model.predict(np.stack(images), verbose=0)
    return describe_best(readable, scores, classes, best_classes(scores, top))


def best_classes(scores: np.ndarray, top: int) -> np.ndarray:
    """Return the indices of the highest scores (B, classes), highest first."""
    return np.argsort(-scores, axis=-1, kind="stable")[:, :top]


def describe_best(
    paths: Sequence[PathLike],
    scores: np.ndarray,
    classes: list[dict[str, str]],
    best: np.ndarray,
) -> list[dict[str, Any]]:
    """Return what `--json` prints of images: their paths, best classes and scores."""
    return [
        {
            "image": str(path),
            "predictions": [{**classes[i], "score": float(row[i])} for i in order],
        }
        for path, row, order in zip(paths, scores, best, strict=True)
    ]
