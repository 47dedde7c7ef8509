"""The one function that turns whatever people hold into what a CvT takes."""

from typing import TYPE_CHECKING, Any

from keras_cvt import zoo
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.arrays import describe, is_array, is_tensorflow
from keras_cvt.preprocessing.pil import (
    to_pil,
    transform_arrays,
    transform_list,
    transform_pil,
)
from keras_cvt.preprocessing.tensors import transform_tensor

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


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
            that are not finite or integers outside 0-255, or has not the model's
            channels, or if the tag is unknown.

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
    transformed = _transformed(images, _eval_transform(model_or_weights))
    taken = getattr(getattr(model_or_weights, "input", None), "shape", (None,))[-1]
    given = transformed.shape[-1]
    if None not in (taken, given) and given != taken:
        raise ValueError(
            f"Expected images of {taken} channels, as the model takes. "
            f"Received: {given} channels"
        )
    return transformed


def _transformed(images, transform):
    if is_tensorflow(images):
        return transform_tensor(images, transform)
    if isinstance(images, (list, tuple)):
        return transform_list(images, transform)
    if is_array(images):
        return transform_arrays(images, transform)
    return transform_pil(to_pil(images), transform)[None]


def _eval_transform(model_or_weights: Any) -> EvalTransform:
    if isinstance(model_or_weights, EvalTransform):
        return model_or_weights
    if isinstance(model_or_weights, str):
        return zoo.eval_transform(model_or_weights)
    transform = getattr(model_or_weights, "eval_transform", None)
    if not isinstance(transform, EvalTransform):
        raise TypeError(
            "`model_or_weights` must say how its images are made: a CvT model, an "
            "`EvalTransform` or a tag of `keras_cvt.list_weights()`. For a model "
            "built around a CvT, pass that CvT. "
            f"Received: {describe(model_or_weights)}"
        )
    return transform
