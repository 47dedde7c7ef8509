"""Seconds to export a model in every format: each alone, and with one `ExportProcess`.

`--fastest`, `keras-cvt benchmark` and `hub.write_artefacts` export in the second way.
Weights are random, because times do not depend on them.

    python benchmarks/shared_exports.py
"""

import contextlib
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np  # noqa: E402

import keras_cvt  # noqa: E402
from keras_cvt._utils.tables import render  # noqa: E402
from keras_cvt.deploy import formats  # noqa: E402
from keras_cvt.deploy.subprocess_export import ExportProcess  # noqa: E402


def measure(model, folder, together):
    """Return the seconds of each format's export."""
    images = np.random.default_rng(0).uniform(0, 255, (8, 224, 224, 3))
    seconds = {}
    with contextlib.ExitStack() as stack:
        shared = stack.enter_context(ExportProcess())
        for name, variant in formats.candidates().items():
            begin = time.perf_counter()
            with contextlib.ExitStack() as own:
                exporter = shared if together else own.enter_context(ExportProcess())
                exporter.export(
                    *(model, folder / variant.file_name),
                    format=name,
                    batch_size=1,
                    representative_images=images.astype("float32")
                    if variant.needs_images
                    else None,
                )
            seconds[name] = time.perf_counter() - begin
    return seconds


def main():
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary, "model.keras")
        keras_cvt.CvT13(weights=None).save(model)
        shared = measure(model, Path(temporary, "shared"), True)
        alone = measure(model, Path(temporary, "alone"), False)
    rows = [[name, alone[name], shared[name]] for name in alone]
    rows.append(["all", sum(alone.values()), sum(shared.values())])
    rows = [[*row, row[1] / row[2]] for row in rows]
    print(render(["format", "alone, s", "together, s", "x alone"], rows))


if __name__ == "__main__":
    main()
