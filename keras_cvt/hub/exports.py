"""Exported files of a page, each run in its own runtime before it counts."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cvt import conversion, deploy
from keras_cvt.deploy.processes import export_elsewhere
from keras_cvt.hub.folder import ARTEFACTS, Artefact
from keras_cvt.models import CvTModel

_EXPORTS = (
    "saved_model",
    "litert",
    "litert_float16",
    "litert_dynamic_int8",
    "litert_int8",
    "onnx",
    "openvino",
)
# Name -> format and quantization of `keras_cvt.deploy.export`, and the file's name.
FILES = {
    **{name: deploy.FORMATS[name] for name in _EXPORTS},
    # A pair of files.
    "openvino": ("openvino", None, "openvino/model.xml"),
}

# As the card calls them.
_NAMES = {
    "tf_saved_model": "SavedModel",
    "litert": "LiteRT",
    "onnx": "ONNX",
    "openvino": "OpenVINO",
}

# More representative images than that are not compared: every file runs them all.
_COMPARED = 64


def check_names(names: Sequence[str], images_given: bool) -> None:
    """Raise ValueError unless every name is an export and int8 has its images."""
    unknown = sorted(set(names) - set(FILES))
    if unknown:
        raise ValueError(f"Expected exports of {list(FILES)}. Received: {unknown}")
    if "litert_int8" in names and not images_given:
        raise ValueError(
            "'litert_int8' is calibrated on representative images; "
            "'litert_dynamic_int8' needs none. Received: no images"
        )


def write_artefacts(
    model: CvTModel,
    folder: str | os.PathLike,
    names: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    source: str | None = None,
    representative_images: np.ndarray | None = None,
) -> None:
    """Export a model as files for `push(artefacts=folder)`, and verify each.

    Args:
        model: A classifier, on the TensorFlow backend.
        folder: Where the files go: empty, new, or of an earlier call, which is
            removed.
        names: Of `"saved_model"`, `"litert"`, `"litert_float16"`,
            `"litert_dynamic_int8"`, `"litert_int8"`, `"onnx"` and `"openvino"`, with
            the extras of `keras_cvt.deploy`.
        labels: The classes' names, in the order of the outputs; None means
            `model.labels`, or ImageNet's for 1000 classes.
        source: What the files' metadata says of the weights' origin.
        representative_images: Such as the model takes, (N, H, W, C): `"litert_int8"`
            is calibrated on them, and the files are compared with the model on them
            instead of made-up ones.

    Raises:
        ComparisonError: If a file computes something else in its runtime; the files
            stay.
        FileExistsError: If the folder holds something else than an earlier call's.
        ImportError: If a converter or runtime is missing.
        ValueError: If a name is unknown, int8 has no images or the Keras backend
            cannot export.
    """
    check_names(names, representative_images is not None)
    folder = Path(folder)
    if (folder / ARTEFACTS).is_file():
        # Or the files of an earlier choice would come along.
        shutil.rmtree(folder)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"Expected an empty folder, or one with {ARTEFACTS} of an earlier call. "
            f"Received: folder={str(folder)!r}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # First, so that a call after a failure knows the folder.
    (folder / ARTEFACTS).write_text("[]")
    with tempfile.TemporaryDirectory() as scratch:
        model_file = Path(scratch) / "model.keras"
        model.save(model_file)
        made = [
            _export(
                name, model, model_file, folder, labels, source, representative_images
            )
            for name in names
        ]
    (folder / ARTEFACTS).write_text(json.dumps([vars(artefact) for artefact in made]))


def _export(name, model, model_file, folder, labels, source, images):
    """Export one file and compare it with its model."""
    format_, quantization, filename = FILES[name]
    path = folder / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    export_elsewhere(
        model_file,
        path,
        images if quantization == "int8" else None,
        format=format_,
        quantization=quantization,
        labels=None if labels is None else list(labels),
        source_weights=source,
    )
    if images is None:
        height, width = deploy.read_metadata(path)["input"]["image_size"]
        default = model.eval_transform.image_size
        images = deploy.made_up_images(
            height or default[0], width or default[1], model.input.shape[-1]
        )
    result = deploy.verify(model, path, images[:_COMPARED])
    if not result.passed:
        raise conversion.ComparisonError(
            f"{path} computes something else than the model: expected "
            f"{result.tolerance}.\n{result}"
        )
    kind = _NAMES[format_]
    return Artefact(
        filename,
        kind if quantization is None else f"{kind}, {quantization}",
        result.max_difference,
        1000 / result.images_per_second,
        result.top1_agreement,
    )
