"""Exported files of a repository, each verified in its own runtime."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_cvt import conversion, deploy
from keras_cvt._utils import files
from keras_cvt.checkpoints import saving
from keras_cvt.deploy import formats
from keras_cvt.deploy.file_format import Variant
from keras_cvt.deploy.subprocess_export import ExportProcess
from keras_cvt.hub.card import Artefact
from keras_cvt.hub.folder import ARTEFACTS
from keras_cvt.models import CvTModel

# Every file is run on all of the images, so more of them are left out.
_MAX_COMPARED = 64


def find_variants(names: Sequence[str], images_given: bool) -> list[Variant]:
    """Return what to export.

    Args:
        names: See `write_artefacts`.
        images_given: Whether there are representative images.

    Raises:
        ValueError: If a name is unknown, or images are needed and not given.
    """
    variants = [formats.find_variant(name) for name in names]
    for variant in variants:
        if variant.needs_images and not images_given:
            raise ValueError(
                f"Expected representative images to calibrate {variant.name!r}. "
                "Received: no images"
            )
    return variants


def write_artefacts(
    model: CvTModel,
    folder: str | os.PathLike,
    names: Sequence[str],
    *,
    class_names: Sequence[str] | None = None,
    source: str | None = None,
    representative_images: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Export a model as files for `push(artefacts=folder)`, and verify each.

    Args:
        model: A classifier, on the TensorFlow backend.
        folder: Where the files go. It must be empty, new, or written by an earlier
            call, whose files are removed.
        names: Formats as `keras_cvt.deploy.export` takes them, such as
            `"saved_model"`, `"litert"`, `"litert_int8"`, `"onnx"` and `"openvino"`.
        class_names: The class names, in the order of the outputs. Defaults to
            `None`: `model.class_names`, or those of ImageNet for 1000 classes.
        source: Origin of the weights, for the metadata of the files. Defaults to
            `None`: `model.source_weights`.
        representative_images: Images as the model takes them, (N, H, W, C).
            `"litert_int8"` is calibrated on them, and the files are compared with the
            model on them. Defaults to `None`: the comparison uses synthetic images,
            if it is known which values the model takes.
        labels: The name of `class_names` in version 0.1.0.

    Raises:
        ComparisonError: If a file computes something else than the model. The files
            stay.
        FileExistsError: If the folder holds anything that an earlier call did not
            write.
        ImportError: If a converter or runtime is missing.
        ValueError: If a name is unknown, int8 has no images, or the Keras backend
            cannot export.

    Example:
        >>> keras_cvt.hub.write_artefacts(model, "exports", ["saved_model", "onnx"])
        >>> keras_cvt.hub.push(model, "me/flowers", artefacts="exports")
    """
    variants = find_variants(names, representative_images is not None)
    class_names = labels if class_names is None else class_names
    folder = Path(folder)
    earlier = (folder / ARTEFACTS).is_file()
    is_empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not (earlier or is_empty):
        raise FileExistsError(
            f"Expected an empty folder, or one with {ARTEFACTS} of an earlier call. "
            f"Received: folder={str(folder)!r}"
        )
    saving.check_model(model)
    description = model.description
    if representative_images is None and not description.range_known:
        raise ValueError(
            "Expected representative images: only the model's author knows what values "
            f"its layers in front take. Received: {list(description.layers_in_front)}"
        )
    if earlier:
        # Files of an earlier choice must not stay among the new ones.
        shutil.rmtree(folder)
    # Written first, so that a call after a failure recognises the folder.
    files.write_text(folder / ARTEFACTS, "[]")
    with tempfile.TemporaryDirectory() as temporary, ExportProcess() as exporter:
        model_file = Path(temporary) / "model.keras"
        model.save(model_file)
        written = []
        for variant in variants:
            path = folder / _place(variant)
            exporter.export(
                model_file,
                path,
                format=variant.name,
                representative_images=(
                    representative_images if variant.needs_images else None
                ),
                class_names=None if class_names is None else list(class_names),
                source_weights=source,
            )
            result = verify(model, path, representative_images)
            written.append(
                Artefact(
                    _place(variant),
                    variant.title,
                    result.max_difference,
                    1000 / result.images_per_second,
                    result.agreement,
                )
            )
    described = [vars(artefact) for artefact in written]
    files.write_text(folder / ARTEFACTS, json.dumps(described))


def _place(variant):
    """Return the file's name in the folder; several files get a folder of their own."""
    name = variant.file_name
    return f"{variant.name}/{name}" if variant.format.companions else name


def verify(
    model: CvTModel, path: str | os.PathLike, images: np.ndarray | None
) -> deploy.Verification:
    """Compare an exported file with its model.

    Args:
        model: The model.
        path: What `keras_cvt.deploy.export` wrote.
        images: Images as the model takes them, or None for synthetic ones.

    Raises:
        ComparisonError: If the file computes something else.
    """
    if images is None:
        description = model.description
        sizes = (
            deploy.read_metadata(path)["input"]["image_size"],
            description.eval_transform.image_size,
        )
        height, width = (own or default for own, default in zip(*sizes, strict=True))
        images = deploy.made_up_images(height, width, description.channels)
        if description.value_range is None:
            images = images / 127.5 - 1  # about as large as normalised images
    result = deploy.verify(model, path, images[:_MAX_COMPARED])
    if not result.passed:
        raise conversion.ComparisonError(
            f"{path} computes something else than the model: expected "
            f"{result.tolerance}.\n{result}"
        )
    return result
