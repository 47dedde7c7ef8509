"""The command `explain`."""

import argparse
import json
from pathlib import Path

import numpy as np

from keras_cvt import explain
from keras_cvt._utils import plots
from keras_cvt.cli import image_files, loading
from keras_cvt.data.folders import printable
from keras_cvt.inference import classifier_of
from keras_cvt.inference.classifier import best_classes
from keras_cvt.preprocessing import pil
from keras_cvt.preprocessing.batches import preprocess_files

# Inches of one photo or heat map.
_CELL = 3.0
_LONGEST_NAME = 28
_MOST_IMAGES = 50


def run_explain(options: argparse.Namespace) -> int:
    """Draw photos with their best classes and heat maps; return the exit status."""
    output = Path(options.output)
    if output.suffix.lower() != ".png":
        raise ValueError(f"Expected --output FILE.png. Received: {output}")
    if not output.parent.is_dir():
        raise ValueError(f"Expected a folder that exists. Received: {output.parent}")
    # Before the model is loaded, because matplotlib is optional.
    figure = plots.new_figure()
    paths = image_files.list_paths(options.images)
    if len(paths) > _MOST_IMAGES:
        raise ValueError(
            f"Expected at most {_MOST_IMAGES} images, since each is a row of the "
            f"picture. Received: {len(paths)}"
        )
    model = loading.classifier(options)
    images, readable, unreadable = preprocess_files(paths, model)
    image_files.print_skipped(unreadable)
    if images:
        scores = model.predict(np.stack(images), options.batch_size, verbose=0)
        best = best_classes(scores, options.top)
        answers = [
            {"image": str(path), "predictions": entries}
            for path, entries in zip(
                readable, classifier_of(model).best(scores, options.top), strict=True
            )
        ]
        parts = [
            slice(start, start + options.batch_size)
            for start in range(0, len(images), options.batch_size)
        ]
        maps = np.concatenate(
            [
                _heat_maps(model, np.stack(images[part]), best[part], options.method)
                for part in parts
            ]
        )
        _draw(figure, model, readable, answers, maps, options.method)
        plots.save_png(figure, output)
        if options.json:
            print(json.dumps(answers, indent=2))
        else:
            print(f"{printable(output)}: {len(images)} images, {options.method}")
    return 1 if unreadable else 0


def _heat_maps(model, images, best, method):
    """Return heat maps (B, N, H, W): one for each class, or one for all."""
    if method == "attention":
        return explain.class_token_map(model, images)[:, None]
    columns = [explain.grad_cam(model, images, classes) for classes in best.T]
    return np.stack(columns, axis=1)


def _draw(figure, model, paths, answers, maps, method):
    columns = 2 + maps.shape[1]
    figure.set_size_inches(_CELL * columns, (_CELL + 0.2) * len(paths))
    axes = figure.subplots(len(paths), columns, squeeze=False)
    for row, path, answer, heats in zip(axes, paths, answers, maps, strict=True):
        photo = pil.to_pil(path)
        found = [
            (_short(entry["label"]), entry["score"]) for entry in answer["predictions"]
        ]
        _show(row[0], photo, Path(path).name)
        _bars(row[1], found)
        titles = [f"{name}  {score:.0%}" for name, score in found]
        if method == "attention":
            titles = ["what the class token reads"]
        for cell, heat, title in zip(row[2:], heats, titles, strict=True):
            _show(cell, explain.overlay(photo, heat, model), title)
    figure.tight_layout()


def _show(cell, picture, title):
    cell.imshow(picture)
    cell.set_title(printable(title), fontsize=10, parse_math=False)
    cell.set_axis_off()


def _bars(cell, found):
    places = range(len(found))
    cell.barh(places, [score for _, score in found], color="#d6604d", height=0.35)
    for place, (name, score) in enumerate(found):
        text = f"{printable(name)}  {score:.1%}"
        cell.text(0, place - 0.28, text, fontsize=10, parse_math=False)
    cell.set(xlim=(0, 1), ylim=(len(found) - 0.4, -0.8))
    cell.set_axis_off()


def _short(name):
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
