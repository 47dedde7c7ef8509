"""Exported files of a release, each run in its own runtime before it counts."""

from collections.abc import Sequence
from pathlib import Path

from keras_cvt import conversion, deploy
from keras_cvt.hub.folder import Artefact
from keras_cvt.models import CvTModel

# Name -> format and quantization of `keras_cvt.deploy.export`, and the file's name.
FILES = {
    "saved_model": ("tf_saved_model", None, "saved_model"),
    "litert": ("litert", None, "model.tflite"),
    "litert_float16": ("litert", "float16", "model_float16.tflite"),
    "litert_dynamic_int8": ("litert", "dynamic_int8", "model_dynamic_int8.tflite"),
    "onnx": ("onnx", None, "model.onnx"),
    "openvino": ("openvino", None, "openvino/model.xml"),
}


def export(
    name: str, model: CvTModel, folder: Path, labels: Sequence[str] | None, source: str
) -> Artefact:
    """Export a model into a folder and compare the file with it.

    Args:
        name: A key of `FILES`.
        model: A classifier.
        folder: Where the file goes.
        labels: The classes' names, or None.
        source: What the file's metadata says of the weights' origin.

    Raises:
        ComparisonError: If the file computes something else in its runtime.
        ImportError: If a converter or runtime is missing.
        ValueError: If the Keras backend cannot export.
    """
    format_, quantization, filename = FILES[name]
    path = folder / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    described = deploy.export(
        model, path, format_, quantization, labels=labels, source_weights=source
    )
    height, width = described["input"]["image_size"]
    default = model.eval_transform.image_size
    images = deploy.made_up_images(
        height or default[0], width or default[1], model.input.shape[-1]
    )
    result = deploy.verify(model, path, images)
    if not result.passed:
        raise conversion.ComparisonError(
            f"{path} computes something else than the model: expected "
            f"{result.tolerance}.\n{result}"
        )
    words = format_ if quantization is None else f"{format_}, {quantization}"
    return Artefact(
        filename, words, result.max_difference, 1000 / result.images_per_second
    )
