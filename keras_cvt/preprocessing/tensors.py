"""The evaluation transform with TensorFlow, for eager and symbolic tensors."""

from typing import Any

from keras_cvt._utils.optional import tf
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.arrays import check_shape, check_values, describe, to_numpy
from keras_cvt.preprocessing.transform import crop_offset, resized_size, vertical_first


def transform_tensor(images: Any, transform: EvalTransform) -> "tf.Tensor":
    """Resize and crop images (H, W, C) or (B, H, W, C) of 0-255.

    Args:
        images: Integers or floats, eager or symbolic.
        transform: The size and the crop.

    Returns:
        float32 of the same rank, with a static height and width.

    Raises:
        TypeError: If `images` is not a dense tensor.
        ValueError: If its type, its shape or its values are not those of images.
    """
    images = _checked_tensor(images)
    # PIL rounds 8-bit images after each of its two passes.
    rounds = images.dtype.is_integer
    single = images.shape.rank == 3
    images = tf.cast(images[None] if single else images, "float32")

    height, width = tf.shape(images)[1], tf.shape(images)[2]
    new_height, new_width = resized_size(transform, height, width, tf.maximum)
    first = tf.where(
        vertical_first(height, width, new_height, new_width),
        [new_height, width],
        [height, new_width],
    )
    for size in (first, [new_height, new_width]):
        images = resize_tensor(images, size)
        images = tf.clip_by_value(images, 0.0, 255.0)
        images = tf.floor(images + 0.5) if rounds else images

    top = crop_offset(new_height, transform.image_size[0])
    left = crop_offset(new_width, transform.image_size[1])
    images = tf.image.crop_to_bounding_box(images, top, left, *transform.image_size)
    images.set_shape([None, *transform.image_size, None])
    return images[0] if single else images


def resize_tensor(
    images: "tf.Tensor", size: "tuple[int, int] | tf.Tensor"
) -> "tf.Tensor":
    """Resize (..., H, W, C) by antialiased bicubic interpolation, to float32.

    Images that have this size already stay the same, at no cost.
    """
    images = tf.cast(images, "float32")
    return tf.cond(
        tf.reduce_all(tf.shape(images)[-3:-1] == size),
        lambda: images,
        lambda: tf.image.resize(images, size, "bicubic", antialias=True),
    )


def _checked_tensor(images):
    if not isinstance(images, (tf.Tensor, tf.Variable)):
        raise TypeError(
            "`preprocess_input` takes TensorFlow's dense tensors; for a dataset, call "
            f"it inside `dataset.map`. Received: {describe(images)}"
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
            "The tensor's rank is unknown. State it with "
            "`tf.ensure_shape(image, (None, None, 3))`, or call `tf.io.decode_image` "
            f"with `expand_animations=False`. Received: {images!r}"
        )
    check_shape(tuple(images.shape))
    if tf.executing_eagerly():
        check_values(to_numpy(images))
    return images
