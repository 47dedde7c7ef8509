"""What an export checks before it begins."""

from pathlib import Path

import keras
import numpy as np

from keras_cvt.deploy import formats
from keras_cvt.deploy.file_format import Variant, has_shape

# Suffixes of what other functions write: no names for the folder of an export.
_OF_MODELS = {".keras", ".h5", ".safetensors", ".pth", ".pt", ".bin", ".json"}


class ExportError(ValueError):
    """A converter failed, ran out of memory, or cannot express the network."""


def check_path(path: Path, variant: Variant) -> None:
    """Raise ValueError if a variant cannot be written to a path.

    Its suffix must fit, and a folder must be empty or an earlier export.
    """
    suffix = variant.format.suffix
    if suffix:
        fits, expected = path.suffix == suffix, f"a path that ends in {suffix}"
    else:
        taken = {known.suffix for known in formats.FORMATS.values() if known.suffix}
        fits = path.suffix.lower() not in taken | _OF_MODELS
        expected = "a folder, without the suffix of a file,"
    if not fits:
        raise ValueError(
            f"Expected {expected} for format {variant.format.name!r}. "
            f"Received: path={str(path)!r}"
        )
    earlier = any(known.recognises(path) for known in formats.FORMATS.values())
    is_file = not variant.format.marker
    if path.is_dir() and not earlier and (is_file or any(path.iterdir())):
        raise ValueError(
            "Expected a path to write to, but it is a folder that holds something "
            f"else. Received: path={str(path)!r}"
        )


def check_backend(command: str) -> None:
    """Raise ValueError unless the Keras backend is TensorFlow.

    Args:
        command: The arguments of `keras-cvt` that do the same, for the message.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Exporting needs the TensorFlow backend. Save the model as model.keras and "
            f"run `KERAS_BACKEND=tensorflow keras-cvt {command}`. "
            f"Received: backend={keras.backend.backend()!r}"
        )


def check_representative(
    images: np.ndarray | None, variant: Variant, shape: tuple[int | None, ...]
) -> np.ndarray | None:
    """Return representative images as float32, or None if none are needed.

    Args:
        images: `representative_images` of `export`.
        variant: The format and quantization.
        shape: (B, H, W, C) of the images that the file takes; None for any size.

    Raises:
        ValueError: If they are missing, have the wrong shape, or are given although
            the variant does not need them.
    """
    if not variant.needs_images and images is None:
        return None
    if not variant.needs_images:
        needing = [v.name for v in formats.variants().values() if v.needs_images]
        raise ValueError(
            f"`representative_images` are only for {', '.join(needing)}. "
            f"Received: format={variant.name!r}"
        )
    found = np.asarray([] if images is None else images, "float32")
    if not has_shape(found, shape[1:]) or len(found) < (shape[0] or 1):
        raise ValueError(
            f"{variant.name!r} needs `representative_images` (N, H, W, C) as the file "
            f"takes them, {shape}, at least one batch. Received: shape={found.shape}"
        )
    return found
