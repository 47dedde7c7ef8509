"""From image files, arrays or tensors to what a CvT takes, and back to names.

The pixels are those of the official evaluation (`lib/dataset/transformas/build.py`
of microsoft/CvT: torchvision's transforms over PIL). Normalisation is not here: it
is part of the model, see `keras_cvt.layers.ImagePreprocessing`.
"""

import functools
import importlib.resources
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_cvt import validation

if TYPE_CHECKING:
    import PIL.Image
    import tensorflow as tf

_NUM_CLASSES = 1000
# From `_check_values` up to the line that called `preprocess_input`.
_CALLER = 5


@dataclass(frozen=True)
class EvalTransform:
    """How images were resized and cropped when some weights were evaluated.

    Args:
        image_size: (height, width) of the result, in pixels.
        crop_ratio: Share of the resized image that the centre crop keeps, in
            (0, 1]. 0.875 at 224 resizes the short side to `int(224 / 0.875)` = 256,
            keeps the aspect ratio and crops the centre. For a height that is not
            the width, the image is scaled until it just covers both divided by
            `crop_ratio`. None resizes to `image_size`, whatever the aspect ratio,
            and crops nothing.

    Raises:
        ValueError: If `image_size` is not two positive integers or `crop_ratio` is
            neither None nor in (0, 1].

    Example:
        >>> EvalTransform((224, 224), 0.875).to_dict()
        {'image_size': [224, 224], 'crop_ratio': 0.875}

    Reference:
        `build_transforms` of the official `lib/dataset/transformas/build.py`:
        `TEST.CENTER_CROP` true (224) and false (384).
    """

    image_size: tuple[int, int]
    crop_ratio: float | None

    def __post_init__(self):
        size = self.image_size
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise ValueError(
                "`image_size` must be (height, width). "
                f"Received: image_size={self.image_size!r}"
            )
        validation.check_int(1, height=size[0], width=size[1])
        # JSON turns tuples into lists; a frozen instance must stay hashable.
        object.__setattr__(self, "image_size", tuple(size))
        ratio = self.crop_ratio
        if ratio is None:
            return
        number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
        if not number or not 0 < ratio <= 1:
            raise ValueError(
                "`crop_ratio` must be None or a number in (0, 1]. "
                f"Received: crop_ratio={ratio!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {"image_size": list(self.image_size), "crop_ratio": self.crop_ratio}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "EvalTransform":
        """Return the transform that `to_dict` described.

        Raises:
            ValueError: If a field is missing, unknown or invalid.
        """
        if set(fields) != {"image_size", "crop_ratio"}:
            raise ValueError(
                "An evaluation transform has the fields `image_size` and "
                f"`crop_ratio`. Received: {dict(fields)!r}"
            )
        return cls(**fields)


def preprocess_input(images: Any, model_or_weights: Any) -> "np.ndarray | tf.Tensor":
    """Decode, resize and crop images as some weights were evaluated.

    The resampling is PIL's antialiased bicubic. Pixel values stay 0-255: a CvT
    normalises them itself unless it was built with `include_preprocessing=False`.

    Everything but a TensorFlow tensor goes through PIL, and a single image becomes
    a batch of one. TensorFlow tensors keep their rank, so that the same call works
    on single images and on batches inside `tf.data.Dataset.map`; this is true of
    eager ones, too. They come within 2 levels of PIL. Read JPEG files for them with
    `tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")`, as
    TensorFlow's default decoder is up to 10 levels off.

    Args:
        images: One of

            - a path (str or `os.PathLike`) of a file that PIL reads,
            - a PIL image of any mode, which PIL converts to RGB: transparency is
              dropped, and an EXIF orientation is not applied, as in torchvision's
              `ImageFolder` and hence the official evaluation,
            - an array or an eager tensor of NumPy, JAX or PyTorch, channels last,
              (H, W, C) or (B, H, W, C), integers or floats in 0-255, with any
              number of channels: they are resized one by one,
            - a list or tuple of these, one image each, of any sizes: a batch,
            - a TensorFlow tensor, (H, W, C) or (B, H, W, C), eager or symbolic.

            Floats outside 0-255 are clipped, also those that bicubic makes.
        model_or_weights: A CvT model (anything with a property `eval_transform`),
            an `EvalTransform`, or a tag of `keras_cvt.list_weights()`, such as
            `"imagenet_384"` or `"cvtw24/imagenet"`.

    Returns:
        float32 images in 0-255: a NumPy array (B, height, width, C), or for a
        TensorFlow tensor a tensor of its rank with static height and width.

    Raises:
        FileNotFoundError: If a path does not exist.
        TypeError: If `images` or `model_or_weights` is of a type not named above.
        ValueError: If an image is empty, unreadable or not (H, W, C), holds values
            that are not finite or integers outside 0-255, or if the tag is unknown.

    Warns:
        UserWarning: If floats look normalised already (negative, or none above 1)
            or exceed 255. Symbolic tensors have no values to look at.

    Example:
        ```python
        images = keras_cvt.preprocess_input(["cat.jpg", "dog.png"], model)
        keras_cvt.decode_predictions(model.predict(images))

        dataset = dataset.map(
            lambda image, label: (keras_cvt.preprocess_input(image, model), label)
        )
        ```

    Reference:
        `build_transforms` of the official `lib/dataset/transformas/build.py`.
    """
    transform = _eval_transform(model_or_weights)
    if _is_tensorflow(images):
        return _transform_tensor(images, transform)
    if isinstance(images, (list, tuple)):
        return _transform_list(images, transform)
    if _is_array(images):
        return _transform_arrays(images, transform)
    return _transform_pil(_to_pil(images), transform)[None]


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Name the ImageNet-1k classes with the highest scores.

    Args:
        preds: Scores (B, 1000), probabilities or logits: an array or an eager
            tensor of any backend.
        top: How many classes to name an image, 1-1000.

    Returns:
        A list an image of `(wnid, name, score)`, highest score first, as
        `keras.applications` returns them.

    Raises:
        ValueError: If `preds` is not (B, 1000) or `top` is not in 1-1000.

    Example:
        >>> decode_predictions(np.eye(1000)[:1], top=1)
        [[('n01440764', 'tench', 1.0)]]
    """
    if (
        isinstance(top, bool)
        or not isinstance(top, int)
        or not 1 <= top <= _NUM_CLASSES
    ):
        raise ValueError(
            f"`top` must be an integer from 1 to {_NUM_CLASSES}. Received: top={top!r}"
        )
    scores = _to_numpy(preds)
    if scores.ndim != 2 or scores.shape[1] != _NUM_CLASSES:
        raise ValueError(
            "`preds` must be the scores of the ImageNet-1k classes, of shape "
            f"(batch, {_NUM_CLASSES}). Received: shape={scores.shape}"
        )
    classes = _imagenet_classes()
    decoded = []
    for row in scores.astype("float64"):
        best = np.argsort(-row, kind="stable")[:top]
        decoded.append([(*classes[index], float(row[index])) for index in best])
    return decoded


@functools.cache
def _imagenet_classes() -> list[tuple[str, str]]:
    """Return (wnid, name) of each ImageNet-1k class, in the order of the logits."""
    path = importlib.resources.files("keras_cvt") / "assets/imagenet_class_index.json"
    classes = json.loads(path.read_text(encoding="utf-8"))
    return [tuple(classes[str(index)]) for index in range(_NUM_CLASSES)]


def _eval_transform(model_or_weights: Any) -> EvalTransform:
    if isinstance(model_or_weights, EvalTransform):
        return model_or_weights
    if isinstance(model_or_weights, str):
        from keras_cvt import zoo  # zoo builds on `EvalTransform`

        return zoo.eval_transform(model_or_weights)
    transform = getattr(model_or_weights, "eval_transform", None)
    if not isinstance(transform, EvalTransform):
        raise TypeError(
            "`model_or_weights` must say how its images are made: a CvT model, an "
            "`EvalTransform` or a tag of `keras_cvt.list_weights()`. For a model "
            "built around a CvT, pass that CvT. "
            f"Received: {_describe(model_or_weights)}"
        )
    return transform


# Geometry. Integers only, so that Python and TensorFlow agree to the pixel.


def _resized_size(
    transform: EvalTransform, height: Any, width: Any, maximum: Callable = max
) -> tuple[Any, Any]:
    """Return the (height, width) to resize an image to, before any crop.

    The sizes are ints, or int32 tensors with TensorFlow's `maximum`.
    """
    if transform.crop_ratio is None:
        return transform.image_size
    cover_height, cover_width = (
        int(size / transform.crop_ratio) for size in transform.image_size
    )
    # The smaller scale falls short on one side, where the other's result is larger.
    return (
        maximum(cover_height, cover_width * height // width),
        maximum(cover_width, cover_height * width // height),
    )


def _crop_offset(size: Any, crop: int) -> Any:
    """Return torchvision's `int(round((size - crop) / 2))`: halves go to even."""
    half, rest = (size - crop) // 2, (size - crop) % 2
    return half + rest * (half % 2)


def _vertical_first(height: Any, width: Any, new_height: Any, new_width: Any) -> Any:
    """Tell which of PIL's two passes comes first; between them, it clips and rounds.

    Since 13, Pillow starts with the height where that shrinks by more than twice as
    many pixels as the width. The other order is up to 13 levels off at sharp edges.
    """
    from PIL import __version__ as version

    if int(version.split(".")[0]) < 13:
        return False
    shrinks = height > new_height
    return shrinks & (height - new_height > 2 * (width - new_width))


# Images that PIL resizes.


def _transform_pil(image: "PIL.Image.Image", transform: EvalTransform) -> np.ndarray:
    """Resize and crop an image of 8 bits a channel to float32 (h, w[, C])."""
    from PIL import Image

    height, width = _resized_size(transform, image.height, image.width)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return _crop(np.asarray(resized, "float32"), transform)


def _transform_float(channel: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """Resize and crop one channel (H, W) of float32.

    Clipped between the passes as 8-bit images are; otherwise a float image would be
    up to 10 levels away from the same image in uint8.
    """
    from PIL import Image

    height, width = channel.shape
    new_height, new_width = _resized_size(transform, height, width)
    sizes = [(new_width, height), (new_width, new_height)]
    if _vertical_first(height, width, new_height, new_width):
        sizes[0] = (width, new_height)
    for size in sizes:
        image = Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC)
        channel = np.clip(np.asarray(image), 0, 255)
    return _crop(channel, transform)


def _transform_array(image: np.ndarray, transform: EvalTransform) -> np.ndarray:
    """Resize and crop an image (H, W, C) of uint8 or float32."""
    from PIL import Image

    if image.dtype != np.uint8:
        channels = [_transform_float(c, transform) for c in np.moveaxis(image, -1, 0)]
    elif image.shape[-1] == 3:
        return _transform_pil(Image.fromarray(image), transform)
    else:
        # Not as RGBA: PIL would multiply the colours by what it takes for alpha.
        channels = [
            _transform_pil(Image.fromarray(c), transform)
            for c in np.moveaxis(image, -1, 0)
        ]
    return np.stack(channels, axis=-1)


def _transform_arrays(images: Any, transform: EvalTransform) -> np.ndarray:
    array = _pixels(images)
    batch = array if array.ndim == 4 else array[None]
    return np.stack([_transform_array(image, transform) for image in batch])


def _transform_list(images: list | tuple, transform: EvalTransform) -> np.ndarray:
    if not images:
        raise ValueError(f"`images` holds no image. Received: {images!r}")
    batch = []
    for index, image in enumerate(images):
        if not _is_array(image):
            batch.append(_transform_pil(_to_pil(image), transform))
            continue
        array = _pixels(image)
        if array.ndim != 3:
            raise ValueError(
                "Each element of a list must be one image (H, W, C). "
                f"Received: images[{index}] of shape {array.shape}"
            )
        batch.append(_transform_array(array, transform))
    channels = [image.shape[-1] for image in batch]
    if len(set(channels)) > 1:
        raise ValueError(
            "The images of a batch must have the same number of channels. "
            f"Received: channels={channels}"
        )
    return np.stack(batch)


def _crop(image: np.ndarray, transform: EvalTransform) -> np.ndarray:
    height, width = transform.image_size
    top = _crop_offset(image.shape[0], height)
    left = _crop_offset(image.shape[1], width)
    return image[top : top + height, left : left + width]


def _to_pil(image: Any) -> "PIL.Image.Image":
    """Return a PIL image or an image file as RGB."""
    from PIL import Image

    if isinstance(image, Image.Image):
        if 0 in image.size:
            raise ValueError(f"The image has no pixels. Received: {image!r}")
        return image.convert("RGB")
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(
            "An image must be a path, a PIL image, an array or a tensor, or a list "
            f"of these. Received: {_describe(image)}"
        )
    try:
        with Image.open(image) as opened:
            return opened.convert("RGB")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(
            f"PIL cannot read this file as an image: {error}. "
            f"Received: {os.fspath(image)!r}"
        ) from error


# Arrays and tensors.


def _is_tensorflow(images: Any) -> bool:
    # By name, so that the other backends' users need no TensorFlow.
    return type(images).__module__.partition(".")[0] == "tensorflow"


def _is_array(images: Any) -> bool:
    if isinstance(images, keras.KerasTensor):
        raise TypeError(
            "`preprocess_input` works on images, not on the symbolic inputs of a "
            f"Keras model. Received: {images!r}"
        )
    # NumPy's strings are paths although they have a shape.
    return hasattr(images, "shape") and not isinstance(images, str)


def _to_numpy(array: Any) -> np.ndarray:
    """Return an array or an eager tensor of any framework as a NumPy array."""
    if isinstance(array, keras.Variable):
        array = array.value
    if hasattr(array, "detach"):  # PyTorch: off the graph and off the accelerator
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    array = np.asarray(array)
    # NumPy does not know bfloat16 as a float.
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _pixels(images: Any) -> np.ndarray:
    """Return images as uint8 or float32 (H, W, C) or (B, H, W, C), checked."""
    array = _to_numpy(images)
    _check_shape(array.shape)
    _check_values(array)
    return np.ascontiguousarray(array, "uint8" if array.dtype.kind in "ui" else "f4")


def _check_shape(shape: tuple[int | None, ...]) -> None:
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


def _check_values(array: np.ndarray) -> None:
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


def _describe(value: Any) -> str:
    return f"{value!r:.80} ({type(value).__name__})"


# TensorFlow tensors, eager or symbolic.


def _transform_tensor(images: Any, transform: EvalTransform) -> "tf.Tensor":
    """Resize and crop (H, W, C) or (B, H, W, C); the rank stays."""
    import tensorflow as tf

    images = _checked_tensor(images)
    # PIL rounds 8-bit images after each of its two passes.
    rounds = images.dtype.is_integer
    single = images.shape.rank == 3
    images = tf.cast(images[None] if single else images, "float32")

    height, width = tf.shape(images)[1], tf.shape(images)[2]
    new_height, new_width = _resized_size(transform, height, width, tf.maximum)
    first = tf.where(
        _vertical_first(height, width, new_height, new_width),
        [new_height, width],
        [height, new_width],
    )
    for size in (first, [new_height, new_width]):
        images = tf.image.resize(images, size, "bicubic", antialias=True)
        images = tf.clip_by_value(images, 0.0, 255.0)
        images = tf.floor(images + 0.5) if rounds else images

    top = _crop_offset(new_height, transform.image_size[0])
    left = _crop_offset(new_width, transform.image_size[1])
    images = tf.image.crop_to_bounding_box(images, top, left, *transform.image_size)
    images.set_shape([None, *transform.image_size, None])
    return images[0] if single else images


def _checked_tensor(images: Any) -> "tf.Tensor":
    import tensorflow as tf

    if not isinstance(images, (tf.Tensor, tf.Variable)):
        raise TypeError(
            "Of TensorFlow, `preprocess_input` takes dense tensors; call it inside "
            f"`dataset.map` for a dataset. Received: {_describe(images)}"
        )
    images = tf.convert_to_tensor(images)
    if images.dtype == tf.string:
        raise ValueError(
            "`preprocess_input` takes decoded tensors. Read a file with "
            "`tf.io.decode_jpeg(tf.io.read_file(path), channels=3, "
            'dct_method="INTEGER_ACCURATE")`. '
            f"Received: {images!r}"
        )
    if not (images.dtype.is_integer or images.dtype.is_floating):
        raise ValueError(
            f"Pixels must be integers or floats. Received: dtype={images.dtype.name}"
        )
    if images.shape.rank is None:
        raise ValueError(
            "The tensor's rank is unknown; `tf.ensure_shape(image, (None, None, 3))` "
            "states it, and `tf.io.decode_image` knows it with "
            f"`expand_animations=False`. Received: {images!r}"
        )
    _check_shape(tuple(images.shape))
    if tf.executing_eagerly():
        _check_values(_to_numpy(images))
    return images
