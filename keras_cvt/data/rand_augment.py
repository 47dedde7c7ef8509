"""RandAugment with the operations and magnitudes of timm, one image at a time.

The official configuration is timm's policy `rand-m9-mstd0.5-inc1`: for each image, two
of fifteen operations, drawn with replacement. Each is applied with probability 0.5, at
a magnitude from a normal distribution around 9 of 10.

`keras.layers.RandAugment` is another policy. It draws its operations once per call, so
once per batch, and computes all eleven of them every time. One `factor` applies to all
of them (at 0.9, rotations of up to 324 degrees). It draws from a variable, which a
parallel pipeline reads in no particular order. timm uses PIL. Keras's single layers
were compared with PIL on a photo of 224 x 224 (Keras 3.15):

operation         Keras's layer: levels (of 255) away from PIL       used here
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

Even the layers that agree with PIL would have to get their factor through
`transform_images`. Its format is not documented. In a pipeline it fails if Keras's
backend is JAX or PyTorch, because only calling a layer switches it to TensorFlow.

The operations here are within 1 level of PIL. They have its bicubic geometry and its
rounding, and fill areas from outside the image with the ImageNet mean colour, as in the
official training.
"""

import functools

import keras

from keras_cvt._utils.optional import tf
from keras_cvt.data import augmentation_geometry as geometry

_MAX_MAGNITUDE = 10.0
_APPLIED = 0.5
# PIL's weights of ITU-R 601, in 65536ths; float32 holds the sums exactly.
_GREY = (19595.0, 38470.0, 7471.0)


def apply_rand_augment(
    image: "tf.Tensor", magnitude: float, num_ops: int, std: float, seed: "tf.Tensor"
) -> "tf.Tensor":
    """Apply `num_ops` random operations to an image.

    Args:
        image: float32 (height, width, C) in 0-255, with a static shape. It is rounded
            to whole numbers first, because timm's images have 8 bits at this step.
        magnitude: Mean of the magnitude, 0-10.
        num_ops: Number of operations that are drawn. Each is applied with probability
            0.5.
        std: Standard deviation of the magnitude, which is clipped to 0-10.
        seed: int32 (2,).

    Returns:
        An image of the same shape, whole numbers in 0-255 as float32.
    """
    image = tf.round(image)
    operations = list(OPERATIONS.values())
    seeds = tf.random.experimental.stateless_split(seed, 2 * num_ops)
    for i in range(num_ops):
        drawn = tf.random.stateless_uniform((3,), seeds[2 * i])
        applied, sign, chosen = tf.unstack(drawn)
        noise = tf.random.stateless_normal((), seeds[2 * i + 1])
        level = tf.clip_by_value(magnitude + std * noise, 0.0, _MAX_MAGNITUDE)
        level /= _MAX_MAGNITUDE
        sign = tf.where(sign < 0.5, -1.0, 1.0)
        # TensorFlow computes only the branch that is taken.
        branches = [functools.partial(tf.identity, image)]
        branches += [functools.partial(f, image, level, sign) for f in operations]
        chosen = 1 + tf.cast(chosen * len(operations), "int32")
        branch = tf.where(applied < _APPLIED, chosen, 0)
        image = tf.ensure_shape(tf.switch_case(branch, branches), image.shape)
    return image


# Each operation takes an image of whole numbers, a level in 0-1 and a sign, which only
# some of them use. They drop decimals at the same places as PIL.


def _auto_contrast(image, level, sign):
    # Each graph gets its own layer. A call switches the layer's backend, so that
    # threads that trace at the same time cannot share one.
    stretch = keras.layers.AutoContrast(value_range=(0, 255), dtype="float32")
    if tf.executing_eagerly():
        # Outside a graph, Keras would compute on its own backend.
        stretch = tf.function(stretch)
    # Without 1e-3, values that float32 makes slightly too small would lose a level.
    return tf.floor(tf.minimum(stretch(image) + 1e-3, 255.0))


def _equalize(image, level, sign):
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
    # From 4 bits down to 0 bits, a black image.
    steps = tf.constant([16.0, 32.0, 64.0, 128.0, 256.0])
    step = tf.gather(steps, tf.cast(level * 4, "int32"))
    return tf.floor(image / step) * step


def _solarize(image, level, sign):
    return tf.where(image < 256 - tf.floor(level * 256), image, 255.0 - image)


def _solarize_add(image, level, sign):
    added = tf.minimum(image + tf.floor(level * 110), 255.0)
    return tf.where(image < 128, added, image)


def _enhance(image, plain, level, sign):
    """Move away from, or towards, `plain`: the image without a property."""
    factor = 1 + sign * 0.9 * level
    return tf.floor(tf.clip_by_value(plain + factor * (image - plain), 0.0, 255.0))


def _grey(image):
    """Return PIL's grey of RGB, else the channels' mean, as (height, width, 1)."""
    if image.shape[-1] == len(_GREY):
        weighted = tf.reduce_sum(image * tf.constant(_GREY), -1, keepdims=True)
        return tf.floor((weighted + 2**15) / 2**16)
    return tf.round(tf.reduce_mean(image, -1, keepdims=True))


def _color(image, level, sign):
    if image.shape[-1] != len(_GREY):
        return image
    return _enhance(image, _grey(image), level, sign)


def _contrast(image, level, sign):
    # Integers, because a sum of floats depends on how threads divide the work.
    grey = tf.cast(_grey(image), "int64")
    count = grey.shape.num_elements()
    mean = (2 * tf.reduce_sum(grey) + count) // (2 * count)  # half rounds up
    return _enhance(image, tf.cast(mean, "float32"), level, sign)


def _brightness(image, level, sign):
    return _enhance(image, 0.0, level, sign)


def _sharpness(image, level, sign):
    if min(image.shape[:2]) < 3:
        return image
    rows = image[:-2] + image[1:-1] + image[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    # The centre has 5 of 13 parts of the weight.
    smooth = tf.floor((box + 4 * image[1:-1, 1:-1]) / 13 + 0.5)
    # PIL's filter leaves the border as it is.
    smooth = tf.concat([image[1:-1, :1], smooth, image[1:-1, -1:]], axis=1)
    smooth = tf.concat([image[:1], smooth, image[-1:]], axis=0)
    return _enhance(image, smooth, level, sign)


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
"""The operations by name, in timm's order."""
