"""Checks and conversions of image arrays, of any framework."""

from typing import Any

import keras
import numpy as np

from keras_cvt._utils.user_warnings import warn


def is_tensorflow(images: Any) -> bool:
    """Tell whether this is an object of TensorFlow, a tensor or anything else."""
    # By name, so that users of the other backends do not need TensorFlow.
    return type(images).__module__.partition(".")[0] == "tensorflow"


def is_array(images: Any) -> bool:
    """Tell whether this is an array or an eager tensor of any framework."""
    if isinstance(images, keras.KerasTensor):
        raise TypeError(
            "`preprocess_input` works on images, not on the symbolic inputs of a "
            f"Keras model. Received: {images!r}"
        )
    # A NumPy string has a shape, but it is a path.
    return hasattr(images, "shape") and not isinstance(images, str)


def to_numpy(array: Any) -> np.ndarray:
    """Return an array or an eager tensor of any framework as a NumPy array."""
    if isinstance(array, keras.Variable):
        array = array.value
    if hasattr(array, "detach"):  # PyTorch: off the graph and off the accelerator
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    array = np.asarray(array)
    # NumPy does not know bfloat16 as a float.
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def to_pixels(images: Any) -> np.ndarray:
    """Return images as uint8 or float32 (H, W, C) or (B, H, W, C).

    Raises:
        ValueError: If they have another shape, or values that are not pixels.
    """
    array = to_numpy(images)
    check_shape(array.shape)
    check_values(array)
    return np.ascontiguousarray(array, "uint8" if array.dtype.kind in "ui" else "f4")


def check_shape(shape: tuple[int | None, ...]) -> None:
    """Raise ValueError with a suggested fix unless (H, W, C) or (B, H, W, C)."""
    if len(shape) == 2:
        problem = (
            "Images need a channel axis: `image[..., None]` for one channel, or "
            "`np.stack([image] * 3, axis=-1)` for a greyscale image as RGB."
        )
    elif len(shape) not in (3, 4):
        problem = "Images must be (H, W, C) or (B, H, W, C)."
    elif 0 in shape:
        problem = "The images have no pixels."
    elif shape[-3] in (1, 3) and (shape[-1] or 0) > 4:
        problem = "Images must be channels last; these look channels first."
    else:
        return
    raise ValueError(f"{problem} Received: shape={shape}")


def check_values(array: np.ndarray) -> None:
    """Raise ValueError for values that are not pixels in 0-255.

    Warn about floats that look normalised, or that exceed 255.
    """
    if array.dtype == np.uint8:
        return
    if array.dtype.kind not in "uif":
        raise ValueError(
            f"Pixels must be integers or floats. Received: dtype={array.dtype}"
        )
    low, high = array.min(), array.max()
    out_of_range = low < 0 or high > 255
    if not np.isfinite([low, high]).all() or array.dtype.kind != "f" and out_of_range:
        raise ValueError(
            "Pixels must be finite numbers in 0-255. "
            f"Received: values from {low} to {high}"
        )
    if array.dtype.kind == "f" and (low < 0 or 0 < high <= 1):
        warn(
            f"The images look normalised already (values from {low:.4g} to "
            f"{high:.4g}). `preprocess_input` takes 0-255 and clips other values; "
            "the model normalises."
        )
    elif high > 255:
        warn(f"Values above 255 are clipped (the largest is {high:.6g}).")


def describe(value: Any) -> str:
    """Return a value and its type, for an error message."""
    return f"{value!r:.80} ({type(value).__name__})"
