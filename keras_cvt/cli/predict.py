"""The command `predict`."""

import argparse
import itertools
import json
import time
from pathlib import Path

from keras_cvt._utils.progress import Progress
from keras_cvt._utils.tables import render
from keras_cvt.cli import loading
from keras_cvt.data.folders import printable
from keras_cvt.inference import (
    image_paths,
    predict_files,
    predict_rows,
    predict_with_ray,
)
from keras_cvt.inference.outputs import check_output
from keras_cvt.inference.predicting import is_finished
from keras_cvt.inference.ray_data import require_ray

# Images of one printed table; its columns are aligned.
_TABLE = 1000


def run_predict(options: argparse.Namespace) -> int:
    """Classify images; return the exit status."""
    if not options.images and not options.images_from:
        raise ValueError("Expected IMAGE... or --images-from FILE.")
    if options.ray:
        return _run_on_ray(options)
    if options.actors is not None:
        raise ValueError("Expected --actors with --ray only.")
    if options.output:
        return _write(options)
    if options.resume:
        raise ValueError("Expected --resume with --output FILE only.")
    return _print(options)


def _run_on_ray(options):
    if not options.output or options.resume or options.workers is not None:
        raise ValueError(
            "Expected --ray with --output FOLDER, and without --resume and --workers: "
            "if a machine fails, Ray computes its images again."
        )
    # Before the model is loaded.
    require_ray()
    model, class_names = loading.model_or_exported(options)
    skipped = predict_with_ray(
        model,
        options.images,
        options.output,
        list_file=options.images_from,
        address=options.ray,
        actors=options.actors or 1,
        top=options.top,
        batch_size=options.batch_size,
        class_names=class_names,
    )
    if options.json:
        print(json.dumps({"output": options.output, "skipped": skipped}, indent=2))
    else:
        print(
            f"saved {printable(options.output)}: {skipped:,} images could not be read"
        )
    return 1 if skipped else 0


def _write(options):
    output = Path(options.output)
    # Before the model is loaded.
    check_output(output)
    if options.resume and is_finished(output):
        print(f"{printable(output)} is finished. Delete it to compute it again.")
        return 0
    classifier = loading.any_classifier(options)
    started = time.monotonic()
    with Progress() as progress:

        def show(done, total, rows):
            _print_skipped(progress, rows)
            progress.update(done, total)

        result = predict_files(
            classifier,
            options.images,
            output,
            list_file=options.images_from,
            top=options.top,
            batch_size=options.batch_size,
            workers=options.workers,
            resume=options.resume,
            progress=show,
        )
    seconds = time.monotonic() - started
    facts = {
        "output": str(output),
        "images": result.images,
        "skipped": result.unreadable,
        "resumed": result.resumed,
        "images_per_second": (result.images - result.resumed) / seconds,
    }
    if options.json:
        print(json.dumps(facts, indent=2))
    else:
        resumed = f", {result.resumed:,} of them before" if result.resumed else ""
        print(
            f"saved {printable(output)}: {result.images:,} images{resumed}, "
            f"{result.unreadable:,} of which could not be read; "
            f"{facts['images_per_second']:.1f} images a second"
        )
    return 1 if result.unreadable else 0


def _print(options):
    total = sum(1 for _ in image_paths(options.images, options.images_from))
    paths = image_paths(options.images, options.images_from)
    classifier = loading.any_classifier(options)
    batches = predict_rows(
        classifier,
        paths,
        top=options.top,
        # Of a single photo, no batch of copies is computed.
        batch_size=min(options.batch_size, max(total, 1)),
        workers=options.workers,
    )
    done = read = 0

    def readable(progress):
        """Yield the rows of the images that could be read, and list the others."""
        nonlocal done, read
        progress.update(0, total)
        for batch in batches:
            _print_skipped(progress, batch)
            rows = [row for row in batch if "error" not in row]
            done, read = done + len(batch), read + len(rows)
            yield from rows
            progress.update(done, total)

    show = _print_json if options.json else _print_tables
    with Progress() as progress:
        show(progress, readable(progress))
    return 1 if read < done else 0


def _print_json(progress, rows):
    """Print a list of JSON objects, each as it comes."""
    progress.print("[")
    comma = ""
    for row in rows:
        progress.print(comma + json.dumps(row, indent=2))
        comma = ","
    progress.print("]")


def _print_tables(progress, rows):
    while part := list(itertools.islice(rows, _TABLE)):
        progress.print(_table(part))


def _table(rows):
    cells = [
        [
            printable(row["image"]) if i == 0 else "",
            entry["label"],
            100 * entry["score"],
        ]
        for row in rows
        for i, entry in enumerate(row["predictions"])
    ]
    return render(["image", "label", "score %"], cells)


def _print_skipped(progress, rows):
    for row in rows:
        if "error" in row:
            name = printable(row["image"])
            progress.print(f"keras-cvt: skipped {name}: {row['error']}", error=True)
