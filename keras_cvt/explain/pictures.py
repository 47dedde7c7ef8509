"""Heat maps in the geometry of a photo, and pictures of them."""

from typing import Any

import numpy as np

from keras_cvt.explain.geometry import interpolation, resize
from keras_cvt.preprocessing import pil
from keras_cvt.preprocessing.arrays import is_array, to_numpy, to_pixels
from keras_cvt.preprocessing.images import find_eval_transform
from keras_cvt.preprocessing.transform import crop_offset, resized_size

# Colours of the heats 0, 0.25, ..., 1.
_COLORS = ((0, 0, 90), (100, 0, 140), (220, 30, 80), (255, 140, 0), (255, 245, 120))
# What was cropped away: this share of the grey value.
_CROPPED = 0.4


def to_photo(
    heat_map: Any, photo_size: tuple[int, int], model_or_weights: Any
) -> np.ndarray:
    """Bring a heat map back to the photo that its image was made from.

    It undoes the resize and the crop of `keras_cvt.preprocess_input`.

    Args:
        heat_map: (H, W), of the size of the image.
        photo_size: (height, width) of the photo, in pixels.
        model_or_weights: As for `preprocess_input`.

    Returns:
        float32 (height, width). What was cropped away is NaN.

    Raises:
        TypeError: If `model_or_weights` is of another type.
        ValueError: If the heat map is not (H, W) or contains NaN, or if a size is not
            positive.
    """
    heat = _without_nan(_heat(heat_map))
    height, width = photo_size
    if height < 1 or width < 1:
        raise ValueError(
            f"Expected photo_size (height, width) in pixels. Received: {photo_size}"
        )
    transform = find_eval_transform(model_or_weights).at_size(*heat.shape)
    resized = resized_size(transform, height, width)
    rows, columns = (
        interpolation(
            (np.arange(old) + 0.5) * (new / old) - 0.5 - crop_offset(new, kept),
            kept,
            outside=True,
        )
        for old, new, kept in zip(photo_size, resized, heat.shape, strict=True)
    )
    return rows @ heat @ columns.T


def overlay(
    image: Any,
    heat_map: Any,
    model_or_weights: Any = None,
    opacity: float = 0.7,
    maximum: float | None = None,
) -> np.ndarray:
    """Draw a heat map over a picture.

    Cold positions show the picture, hot ones the colours from blue over red to yellow.
    With `model_or_weights`, the picture is the original photo, and what was cropped
    away before the network saw it is grey and dark.

    Args:
        image: One picture: a path, a PIL image, or an array (H, W, 3) of 0-255.
        heat_map: (H, W) with values of at least 0, or one of `to_photo` of the
            picture's size.
        model_or_weights: As for `keras_cvt.preprocess_input`, which made the network's
            image of this photo. Defaults to `None`: the heat map covers the picture.
        opacity: How much the hottest position hides of the picture, in (0, 1].
            Defaults to `0.7`.
        maximum: The heat that is hottest, to compare several maps. Defaults to `None`:
            the map's largest value.

    Returns:
        uint8 (height, width, 3) of the picture's size.

    Raises:
        FileNotFoundError: If a path does not exist.
        TypeError: If an argument is of another type.
        ValueError: If the image is unreadable, the heat map not (H, W), negative or
            infinite, or another argument out of range.

    Example:
        ```python
        images = keras_cvt.preprocess_input("dog.jpg", model)
        heat_map = keras_cvt.explain.grad_cam(model, images)[0]
        picture = keras_cvt.explain.overlay("dog.jpg", heat_map, model)
        PIL.Image.fromarray(picture).save("why.png")
        ```
    """
    pixels = _pixels(image)
    size = pixels.shape[:2]
    heat = _heat(heat_map)
    if not 0 < opacity <= 1:
        raise ValueError(f"Expected opacity in (0, 1]. Received: {opacity!r}")
    if maximum is not None and not maximum > 0:
        raise ValueError(f"Expected maximum above 0. Received: {maximum!r}")
    if model_or_weights is not None:
        heat = to_photo(heat, size, model_or_weights)
    elif heat.shape != size:
        heat = resize(_without_nan(heat)[None], *size)[0]
    cropped = np.isnan(heat)
    hottest = maximum or np.nanmax(heat) or 1.0
    heat = np.clip(np.where(cropped, 0, heat) / hottest, 0, 1)
    stops = np.linspace(0, 1, len(_COLORS))
    colors = np.stack(
        [np.interp(heat, stops, channel) for channel in np.transpose(_COLORS)], axis=-1
    )
    share = (opacity * heat)[..., None]
    drawn = share * colors + (1 - share) * pixels
    grey = pixels.mean(axis=-1, keepdims=True) * _CROPPED
    drawn = np.where(cropped[..., None], grey, drawn)
    return np.round(drawn).astype("uint8")


def _without_nan(heat):
    if np.isnan(heat).any():
        raise ValueError(
            "Expected a heat map of the network's image. `to_photo` gives maps with "
            "NaN, which `overlay` takes with a picture of their size and without "
            f"`model_or_weights`. Received: NaN in a map of shape {heat.shape}"
        )
    return heat


def _heat(heat_map):
    heat = to_numpy(heat_map).astype("float32")
    if heat.ndim != 2 or 0 in heat.shape:
        hint = "; take one of the batch" if heat.ndim == 3 else ""
        raise ValueError(
            f"Expected a heat map (H, W){hint}. Received: shape={heat.shape}"
        )
    known = heat[~np.isnan(heat)]
    if not known.size or known.min() < 0 or not np.isfinite(known).all():
        found = f"from {known.min()} to {known.max()}" if known.size else "only NaN"
        raise ValueError(
            f"Expected finite heats of at least 0. Received: values {found}"
        )
    return heat


def _pixels(image):
    if not is_array(image):
        return np.asarray(pil.to_pil(image), "float32")
    pixels = to_pixels(image)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
        raise ValueError(
            "Expected one picture (H, W, 3) or (H, W, 1). "
            f"Received: shape={pixels.shape}"
        )
    pixels = np.clip(np.round(pixels), 0, 255).astype("float32")
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
