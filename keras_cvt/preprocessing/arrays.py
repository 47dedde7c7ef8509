"""What may be an image: arrays of any framework, checked."""

import warnings
from typing import Any

import keras
import numpy as np

# From `check_values` up to the line that called `preprocess_input`.
_CALLER = 6


def is_tensorflow(images: Any) -> bool:
    """Tell whether this is TensorFlow's, a tensor or anything else of it."""
    # By name, so that the other backends' users need no TensorFlow.
    return type(images).__module__.partition(".")[0] == "tensorflow"


def is_array(images: Any) -> bool:
    """Tell whether this is an array or an eager tensor of any framework."""
    if isinstance(images, keras.KerasTensor):
        raise TypeError(
            "`preprocess_input` works on images, not on the symbolic inputs of a "
            f"Keras model. Received: {images!r}"
        )
    # NumPy's strings are paths although they have a shape.
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


def pixels(images: Any) -> np.ndarray:
    """Return images as uint8 or float32 (H, W, C) or (B, H, W, C), checked."""
    array = to_numpy(images)
    check_shape(array.shape)
    check_values(array)
    return np.ascontiguousarray(array, "uint8" if array.dtype.kind in "ui" else "f4")


def check_shape(shape: tuple[int | None, ...]) -> None:
    """Refuse what is not (H, W, C) or (B, H, W, C), with the way out."""
    if len(shape) == 2:
        raise ValueError(
            "Images need a channel axis: `image[..., None]` for one channel, or "
            "`np.stack([image] * 3, axis=-1)` for a grayscale image as RGB. "
            f"Received: shape={shape}"
        )
    if len(shape) not in (3, 4):
        raise ValueError(
            f"Images must be (H, W, C) or (B, H, W, C). Received: shape={shape}"
        )
    if 0 in shape:
        raise ValueError(f"The images have no pixels. Received: shape={shape}")
    if shape[-3] in (1, 3) and (shape[-1] or 0) > 4:
        raise ValueError(
            "Images must be channels last; these look channels first. "
            f"Received: shape={shape}"
        )


def check_values(array: np.ndarray) -> None:
    """Refuse what are no pixels of 0-255; warn about floats that look normalised."""
    if array.dtype == np.uint8:
        return
    if array.dtype.kind not in "uif":
        raise ValueError(
            f"Pixels must be integers or floats. Received: dtype={array.dtype}"
        )
    low, high = array.min(), array.max()
    if not np.isfinite([low, high]).all():
        raise ValueError(
            f"Pixels must be finite. Received: values from {low} to {high}"
        )
    if array.dtype.kind in "ui":
        if low < 0 or high > 255:
            raise ValueError(
                f"Pixels must be in 0-255. Received: values from {low} to {high}"
            )
    elif low < 0 or 0 < high <= 1:
        warnings.warn(
            f"The images look normalised already (values from {low:.4g} to "
            f"{high:.4g}). `preprocess_input` takes 0-255 and clips other values; "
            "the model normalises.",
            UserWarning,
            stacklevel=_CALLER,
        )
    elif high > 255:
        warnings.warn(
            f"Values above 255 are clipped (the largest is {high:.6g}).",
            UserWarning,
            stacklevel=_CALLER,
        )


def describe(value: Any) -> str:
    """Return a value and its type, for an error message."""
    return f"{value!r:.80} ({type(value).__name__})"
