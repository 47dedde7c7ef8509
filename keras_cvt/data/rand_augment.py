"""RandAugment with the operations and magnitudes of timm, one image at a time.

The official configuration is timm's policy `rand-m9-mstd0.5-inc1`: two of fifteen
operations an image, drawn with replacement, each applied with probability 0.5 at a
magnitude from a normal distribution around 9 of 10.

`keras.layers.RandAugment` is another policy: it draws its operations once a call, so
once a batch, computes all eleven of them every time, takes one `factor` for all (at
0.9, turns of up to 324 degrees) and draws from a variable, which a parallel pipeline
reads in no particular order. The layers it is made of were held against PIL, of which
timm is made, on a photo of 224 x 224 (Keras 3.15):

operation         Keras's layer: levels of 255 away from PIL         used here
auto_contrast     AutoContrast: below 1, none when rounded down      Keras's
equalize          Equalization: up to 27                             TensorFlow
invert            RandomInvert: none, but a layer for 255 - image    TensorFlow
posterize         RandomPosterization: none, but 128 at 0 bits       TensorFlow
solarize          Solarization: none, at a threshold that is given   TensorFlow
solarize_add      Solarization inverts what it has brightened        TensorFlow
color             RandomColorDegeneration: 1.4                       TensorFlow
contrast          RandomContrast: 22, around each channel's mean     TensorFlow
brightness        RandomBrightness: 207, as it adds                  TensorFlow
sharpness         RandomSharpness: 1.4, but 58 along the border      TensorFlow
rotate, shear_*,  RandomRotation, RandomShear, RandomTranslation:    TensorFlow
translate_*       45 to 83, 1 pixel in 100 by 14 to 20: bilinear,
                  one fill for all channels, shears half a pixel off

A random layer that is right would have to be handed its factor through
`transform_images`: the format is undocumented, and in a pipeline it fails when Keras's
backend is JAX or PyTorch, since only calling a layer switches it to TensorFlow.

What is here is within 1 level of PIL: its bicubic geometry, its rounding, and the
ImageNet mean colour for what comes in from outside, as in the official training.
"""

import functools
from typing import TYPE_CHECKING

import keras

from keras_cvt.data import augmentation_geometry as geometry

if TYPE_CHECKING:
    import tensorflow as tf

_MAX_MAGNITUDE = 10.0
_APPLIED = 0.5
# ITU-R 601 in 65536ths, as PIL converts to grey; float32 holds the sums exactly.
_GREY = (19595.0, 38470.0, 7471.0)


def rand_augment(
    image: "tf.Tensor", magnitude: float, num_ops: int, std: float, seed: "tf.Tensor"
) -> "tf.Tensor":
    """Apply `num_ops` random operations to an image.

    Args:
        image: (height, width, C) of a static shape, float32 in 0-255. It is rounded
            to whole numbers first: timm's images have 8 bits here.
        magnitude: 0-10.
        num_ops: How many operations are drawn; each is applied with probability 0.5.
        std: Standard deviation of the magnitude, which stays in 0-10.
        seed: int32 (2,).

    Returns:
        An image of the same shape, whole numbers in 0-255 as float32.
    """
    import tensorflow as tf

    image = tf.round(image)
    operations = list(OPERATIONS.values())
    seeds = tf.unstack(
        tf.random.experimental.stateless_split(seed, 2 * num_ops), 2 * num_ops
    )
    for uniform_seed, normal_seed in zip(seeds[::2], seeds[1::2], strict=True):
        drawn = tf.random.stateless_uniform((3,), uniform_seed)
        applied, sign, chosen = tf.unstack(drawn)
        noise = tf.random.stateless_normal((), normal_seed)
        level = tf.clip_by_value(magnitude + std * noise, 0.0, _MAX_MAGNITUDE)
        level /= _MAX_MAGNITUDE
        sign = tf.where(sign < 0.5, -1.0, 1.0)
        # Only the branch that is taken is computed.
        branches = [functools.partial(tf.identity, image)]
        branches += [functools.partial(f, image, level, sign) for f in operations]
        chosen = 1 + tf.cast(chosen * len(operations), "int32")
        branch = tf.where(applied < _APPLIED, chosen, 0)
        image = tf.ensure_shape(tf.switch_case(branch, branches), image.shape)
    return image


# Operations: an image of whole numbers, the level in 0-1, and a sign for those that go
# both ways. They cut off decimals where PIL does.


def _auto_contrast(image, level, sign):
    import tensorflow as tf

    # A layer of its own for each graph: while it is called, its backend is switched,
    # so that threads which trace at the same time must not share one.
    stretch = keras.layers.AutoContrast(value_range=(0, 255), dtype="float32")
    if tf.executing_eagerly():
        # Outside a graph Keras would compute on its own backend.
        stretch = tf.function(stretch)
    # What float32 makes a hair too small would lose a level when cut off.
    return tf.floor(tf.minimum(stretch(image) + 1e-3, 255.0))


def _equalize(image, level, sign):
    import tensorflow as tf

    height, width, channels = image.shape
    pixels = tf.cast(tf.reshape(image, (-1, channels)), "int32")
    pixels = tf.transpose(pixels)  # (C, H * W)
    counts = tf.math.bincount(pixels, minlength=256, maxlength=256, axis=-1)
    brightest = tf.reduce_max(pixels, axis=1)
    last = tf.gather(counts, brightest, batch_dims=1)
    step = (height * width - last[:, None]) // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    levels = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    levels = tf.where(step > 0, levels, tf.range(256))  # (C, 256)
    result = tf.transpose(tf.gather(levels, pixels, batch_dims=1))
    return tf.cast(tf.reshape(result, image.shape), "float32")


def _invert(image, level, sign):
    return 255.0 - image


def _posterize(image, level, sign):
    import tensorflow as tf

    # From 4 bits down to none: black.
    steps = tf.constant([16.0, 32.0, 64.0, 128.0, 256.0])
    step = tf.gather(steps, tf.cast(level * 4, "int32"))
    return tf.floor(image / step) * step


def _solarize(image, level, sign):
    import tensorflow as tf

    return tf.where(image < 256 - tf.floor(level * 256), image, 255.0 - image)


def _solarize_add(image, level, sign):
    import tensorflow as tf

    added = tf.minimum(image + tf.floor(level * 110), 255.0)
    return tf.where(image < 128, added, image)


def _enhanced(image, plain, level, sign):
    """Move away from, or towards, a version of the image without a property."""
    import tensorflow as tf

    factor = 1 + sign * 0.9 * level
    return tf.floor(tf.clip_by_value(plain + factor * (image - plain), 0.0, 255.0))


def _grey(image):
    """Return (height, width, 1): PIL's grey of RGB, else the channels' mean."""
    import tensorflow as tf

    if image.shape[-1] == len(_GREY):
        weighted = tf.reduce_sum(image * tf.constant(_GREY), -1, keepdims=True)
        return tf.floor((weighted + 2**15) / 2**16)
    return tf.round(tf.reduce_mean(image, -1, keepdims=True))


def _color(image, level, sign):
    if image.shape[-1] != len(_GREY):
        return image
    return _enhanced(image, _grey(image), level, sign)


def _contrast(image, level, sign):
    import tensorflow as tf

    # Whole numbers: a sum of floats depends on how threads share it.
    grey = tf.cast(_grey(image), "int64")
    count = grey.shape.num_elements()
    mean = (2 * tf.reduce_sum(grey) + count) // (2 * count)  # half rounds up
    return _enhanced(image, tf.cast(mean, "float32"), level, sign)


def _brightness(image, level, sign):
    return _enhanced(image, 0.0, level, sign)


def _sharpness(image, level, sign):
    import tensorflow as tf

    if min(image.shape[:2]) < 3:
        return image
    rows = image[:-2] + image[1:-1] + image[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    # The centre weighs 5 of 13.
    smooth = tf.floor((box + 4 * image[1:-1, 1:-1]) / 13 + 0.5)
    # PIL's filter leaves the border as it is.
    smooth = tf.concat([image[1:-1, :1], smooth, image[1:-1, -1:]], axis=1)
    smooth = tf.concat([image[:1], smooth, image[-1:]], axis=0)
    return _enhanced(image, smooth, level, sign)


OPERATIONS = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "rotate": geometry.rotate,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "color": _color,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "shear_x": geometry.shear_x,
    "shear_y": geometry.shear_y,
    "translate_x": geometry.translate_x,
    "translate_y": geometry.translate_y,
}
"""By name, in timm's order."""
