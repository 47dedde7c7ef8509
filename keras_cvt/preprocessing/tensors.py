"""The evaluation transform with TensorFlow, for eager and symbolic tensors."""

from typing import Any

from keras_cvt._utils.optional import tf
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.arrays import check_shape, check_values, describe, to_numpy
from keras_cvt.preprocessing.transform import (
    MAX_SIDE,
    check_size,
    crop_offset,
    max_pixels,
    resized_size,
    size_limit,
    vertical_first,
)


def transform_tensor(images: Any, transform: EvalTransform) -> "tf.Tensor":
    """Resize and crop images (H, W, C) or (B, H, W, C) of 0-255.

    Args:
        images: Integers or floats, eager or symbolic.
        transform: The size and the crop.

    Returns:
        float32 of the same rank, with a static height and width.

    Raises:
        TypeError: If `images` is not a dense tensor.
        ValueError: If its type, its shape or its values are not those of images, or
            if it is too large. In a graph, a size that is not known before fails with
            InvalidArgument.
    """
    images = _checked_tensor(images)
    # PIL rounds 8-bit images after each of its two passes.
    rounds = images.dtype.is_integer
    single, channels = images.shape.rank == 3, images.shape[-1]
    images = images[None] if single else images
    if images.dtype != tf.uint8:
        images = tf.cast(images, "float32")

    height, width = tf.unstack(tf.shape(images, "int64")[1:3])
    if images.shape[1:3].is_fully_defined():
        check_size(*images.shape[1:3])
    else:
        with tf.control_dependencies([assert_size(height, width)]):
            images = tf.identity(images)
    old, crop = (height, width), transform.image_size
    new = resized_size(transform, height, width, tf.maximum)
    start = [crop_offset(*sizes) for sizes in zip(new, crop, strict=True)]
    # Each pass resizes one axis, and makes only the part of it that the crop keeps.
    rows = vertical_first(*old, *new)
    now = tf.stack([rows, tf.logical_not(rows)])
    passes = (
        (tf.where(now, new, old), tf.where(now, start, 0), tf.where(now, crop, old)),
        (tf.where(now, crop, new), tf.where(now, 0, start), crop),
    )
    for new_size, first, size in passes:
        images = _resize_part(images, new_size, first, size)
        images = tf.clip_by_value(images, 0.0, 255.0)
        images = tf.floor(images + 0.5) if rounds else images
    images.set_shape([None, *crop, channels])
    return images[0] if single else images


def _resize_part(images, new_size, start, size):
    """Resize (B, H, W, C) to `new_size`, but make only `size` pixels from `start`."""
    old_size = tf.shape(images)[1:3]
    new_size, start, size = (tf.cast(x, "int32") for x in (new_size, start, size))

    def resize():
        return tf.raw_ops.ScaleAndTranslate(
            images=images,
            size=size,
            scale=tf.cast(new_size / old_size, "float32"),
            translation=tf.cast(-start, "float32"),
            kernel_type="keyscubic",
            antialias=True,
        )

    def crop():
        begin, extent = tf.pad(start, [[1, 1]]), tf.concat([[-1], size, [-1]], 0)
        return tf.cast(tf.slice(images, begin, extent), "float32")

    return tf.cond(tf.reduce_all(old_size == new_size), crop, resize)


def assert_size(height: "tf.Tensor", width: "tf.Tensor") -> "tf.Operation":
    """Return an operation that fails with InvalidArgument if `check_size` would."""
    height, width = tf.cast(height, "int64"), tf.cast(width, "int64")
    fits = (height * width <= max_pixels()) & (tf.maximum(height, width) <= MAX_SIDE)
    message = f"{size_limit()}. Received height and width:"
    return tf.debugging.Assert(fits, [message, height, width])


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
