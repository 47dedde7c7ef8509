"""Random boxes of an image, drawn like timm: to crop, to erase and to paste."""

import math
from collections.abc import Sequence
from typing import Any

from keras_cvt._utils.optional import tf
from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD

# timm's values. It gives up after so many boxes that do not fit.
_ATTEMPTS = 10
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)


def random_crop(
    image: "tf.Tensor",
    areas: tuple[float, float],
    aspects: tuple[float, float],
    seed: "tf.Tensor",
) -> "tf.Tensor":
    """Cut a random box out of an image.

    Args:
        image: (H, W, C). H and W may be unknown in a graph.
        areas: (least, most) area of the box as a share of the image.
        aspects: (least, most) width of the box divided by its height.
        seed: int32 (2,).

    Returns:
        (box height, box width, C), of the image's dtype.
    """
    size = tf.cast(tf.shape(image)[:2], "float32")
    fits, *box = _random_box(size, size, areas, aspects, seed)
    # If none fits, take the largest box of an allowed aspect, in the centre.
    least, most = aspects
    height, width = tf.unstack(size)
    whole_height = tf.maximum(tf.minimum(height, tf.round(width / least)), 1.0)
    whole_width = tf.maximum(tf.minimum(width, tf.round(height * most)), 1.0)
    middle = ((height - whole_height) // 2, (width - whole_width) // 2)
    box = tf.where(fits, box, [*middle, whole_height, whole_width])
    top, left, height, width = tf.unstack(tf.cast(box, "int32"))
    # With -1 for all channels, their number would become unknown.
    return tf.slice(image, (top, left, 0), (height, width, image.shape[-1]))


def random_erasing(
    image: "tf.Tensor", probability: float, seed: "tf.Tensor"
) -> "tf.Tensor":
    """Fill a random box of an image with noise, with a given probability.

    This is timm's mode `pixel`. There the noise is normal for normalised images. So
    each channel here has the ImageNet mean and standard deviation. Noise outside 0-255
    (3 %) is clipped.

    Args:
        image: float32 (height, width, C) in 0-255, with a static shape.
        probability: 0-1.
        seed: int32 (2,).

    Returns:
        An image of the same shape and range.
    """
    height, width, channels = image.shape
    seeds = tf.random.experimental.stateless_split(seed, 3)
    size = tf.constant([height, width], "float32")
    # As in timm, a box is smaller than the image on both sides.
    fits, *box = _random_box(size, size - 1, _ERASED_AREA, _ERASED_ASPECT, seeds[0])
    top, left, box_height, box_width = (tf.cast(v, "int32") for v in box)

    def erased():
        mean, std = (
            255 * tf.constant(channel_values(v, channels))
            for v in (IMAGENET_MEAN, IMAGENET_STD)
        )
        shape = tf.stack([box_height, box_width, channels])
        noise = mean + std * tf.random.stateless_normal(shape, seeds[1])
        noise = tf.clip_by_value(noise, 0.0, 255.0)
        below, beside = height - top - box_height, width - left - box_width
        noise = tf.pad(noise, [[top, below], [left, beside], [0, 0]])
        noise = tf.ensure_shape(noise, image.shape)
        inside = inside_box(top, left, box_height, box_width, height, width)
        return tf.where(inside, noise, image)

    drawn = tf.random.stateless_uniform((), seeds[2]) < probability
    return tf.cond(drawn & fits, erased, lambda: tf.identity(image))


def _random_box(size, largest, areas, aspects, seed):
    """Draw boxes and return the first that fits, like timm and torchvision.

    Args:
        size: float32 (2,), the image's height and width.
        largest: float32 (2,), the largest height and width of a box.
        areas: (least, most) area of the box as a share of the image.
        aspects: (least, most) width of the box divided by its height.
        seed: int32 (2,).

    Returns:
        Whether any box fits, a bool (), and the box's top, left, height and width in
        whole pixels, each float32 ().
    """
    drawn = tf.random.stateless_uniform((4, _ATTEMPTS), seed)
    area = _between(*areas, drawn[0]) * size[0] * size[1]
    # Uniform in the logarithm, so that flat boxes are as likely as tall ones.
    aspect = tf.exp(_between(*map(math.log, aspects), drawn[1]))
    height = tf.maximum(tf.round(tf.sqrt(area / aspect)), 1.0)
    width = tf.maximum(tf.round(tf.sqrt(area * aspect)), 1.0)
    fits = (height <= largest[0]) & (width <= largest[1])
    first = tf.argmax(tf.cast(fits, "int32"))
    height, width = height[first], width[first]
    top = tf.floor(drawn[2, first] * (size[0] - height + 1))
    left = tf.floor(drawn[3, first] * (size[1] - width + 1))
    return tf.reduce_any(fits), top, left, height, width


def _between(low, high, share):
    return low + (high - low) * share


def inside_box(
    top: Any, left: Any, box_height: Any, box_width: Any, height: Any, width: Any
) -> "tf.Tensor":
    """Return which pixels are in a box, bool (height, width, 1), given integers."""
    rows, columns = tf.range(height), tf.range(width)
    row = (rows >= top) & (rows < top + box_height)
    column = (columns >= left) & (columns < left + box_width)
    return row[:, None, None] & column[None, :, None]


def channel_values(values: Sequence[float], channels: int) -> Sequence[float]:
    """Return one value per channel of RGB; for other channels, the values' mean."""
    return values if channels == len(values) else [sum(values) / len(values)]
