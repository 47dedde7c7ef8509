"""Geometric operations of RandAugment, resampled like PIL.

Each operation takes an image (float32 (height, width, C), whole numbers in 0-255, with
a static shape), a level in 0-1 and a sign of -1 or 1. It returns an image of the same
kind. Areas from outside the image get the ImageNet mean colour, as in the official
training.
"""

import math

from keras_cvt._utils.optional import tf
from keras_cvt.data.augmentation_boxes import channel_values
from keras_cvt.layers.preprocessing import IMAGENET_MEAN


def rotate(image: "tf.Tensor", level: "tf.Tensor", sign: "tf.Tensor") -> "tf.Tensor":
    """Rotate about the centre by up to 30 degrees."""
    angle = sign * level * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    rows, columns = _positions(image)
    middle_row, middle_column = image.shape[0] / 2, image.shape[1] / 2
    row, column = rows - middle_row, columns - middle_column
    return _resample(
        image,
        middle_row + sin * column + cos * row,
        middle_column + cos * column - sin * row,
    )


def shear_x(image: "tf.Tensor", level: "tf.Tensor", sign: "tf.Tensor") -> "tf.Tensor":
    """Move each row sideways by up to 0.3 of its distance to the top."""
    rows, columns = _positions(image)
    return _resample(image, columns=columns + sign * 0.3 * level * rows)


def shear_y(image: "tf.Tensor", level: "tf.Tensor", sign: "tf.Tensor") -> "tf.Tensor":
    """Move each column up or down by up to 0.3 of its distance to the left."""
    rows, columns = _positions(image)
    return _resample(image, rows=rows + sign * 0.3 * level * columns)


def translate_x(
    image: "tf.Tensor", level: "tf.Tensor", sign: "tf.Tensor"
) -> "tf.Tensor":
    """Move sideways by up to 0.45 of the width."""
    _, columns = _positions(image)
    return _resample(image, columns=columns + sign * 0.45 * level * image.shape[1])


def translate_y(
    image: "tf.Tensor", level: "tf.Tensor", sign: "tf.Tensor"
) -> "tf.Tensor":
    """Move up or down by up to 0.45 of the height."""
    rows, _ = _positions(image)
    return _resample(image, rows=rows + sign * 0.45 * level * image.shape[0])


def _positions(image):
    """Return the pixels' centres: rows (height, 1) and columns (1, width)."""
    height, width, _ = image.shape
    rows, columns = tf.range(float(height)) + 0.5, tf.range(float(width)) + 0.5
    return rows[:, None], columns[None]


def _resample(image, rows=None, columns=None):
    """Resample the image at other rows, other columns, or both.

    The interpolation is bicubic, like that of PIL's `transform`. Keras's layers use
    TensorFlow's `ImageProjectiveTransformV3`, which is at best bilinear: one pixel in
    a hundred is 14 levels off.
    """
    height, width, channels = image.shape
    # Channels first, because TensorFlow is slow along a last axis of 3.
    planes = tf.reshape(tf.transpose(image, (2, 0, 1)), (channels, -1))
    row_taps, row_inside = _taps(rows, tf.range(height)[:, None])
    column_taps, column_inside = _taps(columns, tf.range(width)[None])
    result = 0.0
    for row, row_weight in row_taps:
        line = 0.0
        for column, weight in column_taps:
            line += weight * tf.gather(planes, row * width + column, axis=1)
        result += row_weight * line
    result = tf.floor(tf.clip_by_value(result, 0.0, 255.0))
    means = channel_values(IMAGENET_MEAN, channels)
    fill = tf.constant([float(round(255 * mean)) for mean in means])[:, None, None]
    inside = row_inside & column_inside
    return tf.transpose(tf.where(inside, result, fill), (1, 2, 0))


def _taps(positions, indices):
    """Return the (index, weight) pairs to sum along an axis, and which are inside."""
    if positions is None:
        return [(indices, 1.0)], True
    size = indices.shape.num_elements()
    first = tf.floor(positions - 0.5)
    d = positions - 0.5 - first
    # Cubic convolution with a = -1. It is sharper than a = -0.5, of PIL's `resize`.
    weights = (
        d * (-1 + d * (2 - d)),
        1 + d * d * (d - 2),
        d * (1 + d * (1 - d)),
        d * d * (d - 1),
    )
    taps = [
        (tf.clip_by_value(tf.cast(first, "int32") + offset, 0, size - 1), weight)
        for offset, weight in zip((-1, 0, 1, 2), weights, strict=True)
    ]
    return taps, (positions >= 0) & (positions < size)
