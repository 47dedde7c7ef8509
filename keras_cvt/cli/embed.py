"""The command `embed`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_cvt.cli import image_files, loading
from keras_cvt.data import folders
from keras_cvt.features import embed_files
from keras_cvt.features.files import check_npz


def run_embed(options: argparse.Namespace) -> int:
    """Write the features of images to a file; return the exit status."""
    out = check_npz(options.out)
    classes = _find_classes(options.images)
    if classes is None:
        paths, labels = image_files.list_paths(options.images), None
    else:
        paths = [Path(path) for found in classes.values() for path in found]
        labels = [i for i, found in enumerate(classes.values()) for _ in found]
    result, unreadable = embed_files(
        loading.network(options),
        paths,
        labels=labels,
        class_names=None if classes is None else tuple(classes),
        batch_size=options.batch_size,
    )
    result.save(out)
    image_files.print_skipped(unreadable)
    count, channels = result.features.shape
    if options.json:
        summary = {"images": count, "channels": channels, "classes": len(classes or ())}
        print(json.dumps({**summary, **result.metadata}, indent=2))
    else:
        of_classes = f" of {len(classes):,} classes" if classes else ""
        print(
            f"saved {folders.printable(out)}: {channels:,} features of each of "
            f"{count:,} images{of_classes}"
        )
    return 1 if unreadable else 0


def _find_classes(names: Sequence[str]) -> dict[str, list[str]] | None:
    """Return the paths of each class's images, or None if there are no classes.

    Only one folder whose images are all in folders below it has classes. Such a folder
    of splits, `train` and `validation`, has none.
    """
    if len(names) != 1 or not os.path.isdir(names[0]):
        return None
    found = folders.list_images(Path(names[0]))[0]
    parts = [Path(path).relative_to(names[0]).parts for path in found]
    splits = {"train", *folders.SPLITS["validation"]}
    if any(len(p) == 1 for p in parts) or {p[0] for p in parts} <= splits:
        return None
    try:
        return folders.find_images(Path(names[0]))
    except ValueError as error:
        print(f"keras-cvt: no labels are saved: {error}", file=sys.stderr)
        return None
