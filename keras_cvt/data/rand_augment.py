"""RandAugment (arXiv 1909.13719) with the operations and magnitudes of timm.

timm's policy `rand-m9-mstd0.5-inc1`: two of fifteen operations an image, drawn with
replacement, each applied with probability 0.5 at a magnitude drawn around 9 of 10.
AutoContrast is Keras's layer. Geometry is bilinear where timm's is
bicubic; what comes in from outside has the ImageNet mean colour, as there.
"""

import functools
import math
from typing import TYPE_CHECKING

import keras

from keras_cvt.layers.preprocessing import IMAGENET_MEAN

if TYPE_CHECKING:
    import tensorflow as tf

# ITU-R 601, as PIL's conversion to grey.
_GREY = (0.299, 0.587, 0.114)


def rand_augment(
    image: "tf.Tensor", magnitude: float, num_ops: int, std: float, seed: "tf.Tensor"
) -> "tf.Tensor":
    """Apply `num_ops` random operations to an image.

    Args:
        image: (height, width, 3) of a static size, float32 in 0-255.
        magnitude: 0-10.
        num_ops: How many operations are drawn.
        std: Standard deviation of the magnitude.
        seed: Two integers.

    Returns:
        An image of the same shape and range.
    """
    import tensorflow as tf

    operations = list(OPERATIONS.values())
    for step_seed in tf.unstack(
        tf.random.experimental.stateless_split(seed, num_ops), num_ops
    ):
        seeds = tf.random.experimental.stateless_split(step_seed, 2)
        drawn = tf.random.stateless_uniform((3,), seeds[0])
        noise = tf.random.stateless_normal((), seeds[1])
        level = tf.clip_by_value(magnitude + std * noise, 0.0, 10.0) / 10
        sign = tf.where(drawn[1] < 0.5, -1.0, 1.0)
        chosen = tf.cast(drawn[2] * len(operations), "int32")
        branches = [
            functools.partial(operation, image, level, sign) for operation in operations
        ]
        image = tf.where(
            drawn[0] < 0.5,
            image,
            tf.ensure_shape(tf.switch_case(chosen, branches), image.shape),
        )
    return image


# Operations: an image, the level in 0-1, and a sign for what goes both ways.


def _auto_contrast(image, level, sign):
    return keras.layers.AutoContrast(value_range=(0, 255), dtype="float32")(image)


def _equalize(image, level, sign):
    """As PIL; `keras.layers.Equalization` is up to 27 levels away from it."""
    import tensorflow as tf

    pixels = tf.cast(tf.round(image), "int32")
    channels = []
    for channel in tf.unstack(pixels, axis=-1):
        counts = tf.math.bincount(tf.reshape(channel, [-1]), minlength=256)
        last = tf.boolean_mask(counts, counts > 0)[-1]
        step = (tf.reduce_sum(counts) - last) // 255
        below = tf.cumsum(counts, exclusive=True)
        levels = (step // 2 + below) // tf.maximum(step, 1)
        levels = tf.where(step > 0, tf.minimum(levels, 255), tf.range(256))
        channels.append(tf.gather(levels, channel))
    return tf.cast(tf.stack(channels, axis=-1), "float32")


def _invert(image, level, sign):
    return 255.0 - image


def _posterize(image, level, sign):
    import tensorflow as tf

    # From 4 bits down to none.
    step = 2.0 ** (8 - (4 - tf.floor(level * 4)))
    return tf.floor(image / step) * step


def _solarize(image, level, sign):
    import tensorflow as tf

    threshold = 256 - tf.floor(level * 256)
    return tf.where(image < threshold, image, 255 - image)


def _solarize_add(image, level, sign):
    import tensorflow as tf

    added = tf.minimum(image + tf.floor(level * 110), 255.0)
    return tf.where(image < 128, added, image)


def _enhanced(image, plain, level, sign):
    """Move away from, or towards, a version of the image without a property."""
    import tensorflow as tf

    factor = tf.maximum(1 + sign * 0.9 * level, 0.1)
    return tf.clip_by_value(plain + factor * (image - plain), 0.0, 255.0)


def _grey(image):
    import tensorflow as tf

    return tf.reduce_sum(image * tf.constant(_GREY), -1, keepdims=True)


def _color(image, level, sign):
    return _enhanced(image, _grey(image), level, sign)


def _contrast(image, level, sign):
    import tensorflow as tf

    return _enhanced(image, tf.reduce_mean(_grey(image)), level, sign)


def _brightness(image, level, sign):
    return _enhanced(image, 0.0, level, sign)


def _sharpness(image, level, sign):
    import tensorflow as tf

    height, width, channels = image.shape
    if min(height, width) < 3:
        return image
    kernel = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = tf.tile(kernel[:, :, None, None], (1, 1, channels, 1))
    inner = tf.nn.depthwise_conv2d(image[None], kernel, (1, 1, 1, 1), "VALID")[0]
    # PIL's filter leaves the border as it is.
    border = tf.pad(tf.ones_like(inner), ((1, 1), (1, 1), (0, 0)))
    smooth = tf.pad(inner, ((1, 1), (1, 1), (0, 0))) + (1 - border) * image
    return _enhanced(image, smooth, level, sign)


def _affine(image, matrix):
    """Resample: (x, y) of the result comes from `matrix` times (x, y, 1)."""
    import tensorflow as tf

    fill = 255 * tf.constant(IMAGENET_MEAN)
    # The operation fills with one number; so shift the mean to 0 and back.
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=(image - fill)[None],
        transforms=tf.reshape(tf.stack([*matrix, 0.0, 0.0]), (1, 8)),
        output_shape=image.shape[:2],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )
    return tf.clip_by_value(moved[0] + fill, 0.0, 255.0)


def _rotate(image, level, sign):
    import tensorflow as tf

    angle = sign * level * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width, _ = image.shape
    x, y = (width - 1) / 2, (height - 1) / 2
    return _affine(
        image,
        [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y],
    )


def _shear_x(image, level, sign):
    return _affine(image, [1.0, sign * 0.3 * level, 0.0, 0.0, 1.0, 0.0])


def _shear_y(image, level, sign):
    return _affine(image, [1.0, 0.0, 0.0, sign * 0.3 * level, 1.0, 0.0])


def _translate_x(image, level, sign):
    shift = sign * 0.45 * level * image.shape[1]
    return _affine(image, [1.0, 0.0, shift, 0.0, 1.0, 0.0])


def _translate_y(image, level, sign):
    shift = sign * 0.45 * level * image.shape[0]
    return _affine(image, [1.0, 0.0, 0.0, 0.0, 1.0, shift])


OPERATIONS = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": _rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
"""By name, in timm's order."""
