"""`preprocess_input`: files, arrays and tensors to the pixels that a CvT takes."""

import os
from typing import Any

import numpy as np

from keras_cvt import zoo
from keras_cvt._utils.optional import tf
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing import pil
from keras_cvt.preprocessing.arrays import describe, is_array, is_tensorflow
from keras_cvt.preprocessing.tensors import transform_tensor

PathLike = str | os.PathLike


def preprocess_input(images: Any, model_or_weights: Any) -> "np.ndarray | tf.Tensor":
    """Decode, resize and crop images as in the evaluation of a model's weights.

    The resampling is PIL's antialiased bicubic. Pixel values stay in 0-255: a CvT
    normalises them itself, unless it was built with `include_preprocessing=False`.

    Everything except TensorFlow tensors goes through PIL, and a single image becomes
    a batch of one. A TensorFlow tensor keeps its rank, eager or symbolic, so that the
    same call works on single images and on batches inside `tf.data.Dataset.map`. The
    result is within 2 levels of PIL. Read JPEG files for it with
    `tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")`:
    TensorFlow's default decoder is up to 10 levels off.

    Args:
        images: One of

            - a path (str or `os.PathLike`) of a file that PIL reads,
            - a PIL image of any mode. PIL converts it to RGB. This drops transparency:
              the image is put over no background, and what was hidden shows. An EXIF
              orientation is not applied. Both are so in torchvision's `ImageFolder`
              and hence in the official evaluation. Of an animation, the first frame
              counts. 16 bits become 8: the upper byte. Grey values of 32 bits must be
              in 0-255,
            - an array or an eager tensor of NumPy, JAX or PyTorch, channels last,
              (H, W, C) or (B, H, W, C), integers or floats in 0-255, with any
              number of channels. Each channel is resized by itself,
            - a list or tuple of these, one image each, of any sizes: a batch,
            - a TensorFlow tensor, (H, W, C) or (B, H, W, C), eager or symbolic.

            Floats outside 0-255 are clipped, also those that bicubic resampling makes.
        model_or_weights: A CvT model (or any object with a property `eval_transform`),
            an `EvalTransform`, or a tag of `keras_cvt.list_weights()`, such as
            `"imagenet_384"` or `"cvtw24/imagenet"`.

    Returns:
        float32 images in 0-255. A NumPy array (B, height, width, C); for a TensorFlow
        tensor, a tensor of the same rank with static height and width.

    Raises:
        FileNotFoundError: If a path does not exist.
        TypeError: If `images` or `model_or_weights` is of a type not named above.
        ValueError: If an image is empty, unreadable or not (H, W, C), if it holds
            integers outside 0-255 or values that are not finite, if it has more than
            twice `PIL.Image.MAX_IMAGE_PIXELS` pixels or 65,535 a side, if it does not
            have the model's number of channels, or if the tag is unknown.

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
    return preprocess_for(images, *find_expected(model_or_weights))


def find_expected(model_or_weights: Any) -> tuple[EvalTransform, int | None]:
    """Return the transform, and the number of channels, that images must have.

    The number is None if any will do. A model reads both off its graph.
    """
    if isinstance(model_or_weights, CvTModel):
        description = model_or_weights.description
        return description.eval_transform, description.channels
    return find_eval_transform(model_or_weights), None


def preprocess_for(
    images: Any, transform: EvalTransform, channels: int | None
) -> "np.ndarray | tf.Tensor":
    """Preprocess images, with what `find_expected` returned; see `preprocess_input`."""
    transformed = _transform(images, transform)
    given = transformed.shape[-1]
    if None not in (channels, given) and given != channels:
        raise ValueError(
            f"Expected images of {channels} channels, as the model takes. "
            f"Received: {given} channels"
        )
    return transformed


def _transform(images, transform):
    if is_tensorflow(images):
        return transform_tensor(images, transform)
    if isinstance(images, (list, tuple)):
        return pil.transform_list(images, transform)
    if is_array(images):
        return pil.transform_arrays(images, transform)
    return pil.transform_pil(pil.to_pil(images), transform)[None]


def find_eval_transform(model_or_weights: Any) -> EvalTransform:
    """Return the transform that the second argument of `preprocess_input` states."""
    if isinstance(model_or_weights, EvalTransform):
        return model_or_weights
    if isinstance(model_or_weights, str):
        return zoo.eval_transform(model_or_weights)
    transform = getattr(model_or_weights, "eval_transform", None)
    if not isinstance(transform, EvalTransform):
        raise TypeError(
            "`model_or_weights` must state the evaluation transform: a CvT model, an "
            "`EvalTransform` or a tag of `keras_cvt.list_weights()`. For a model "
            "built around a CvT, pass that CvT. "
            f"Received: {describe(model_or_weights)}"
        )
    return transform
