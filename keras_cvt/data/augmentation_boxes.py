"""Boxes drawn as timm draws them: to crop, to erase, to paste."""

import math
from typing import TYPE_CHECKING, Any

from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    import tensorflow as tf

# timm's, for boxes to crop or to erase: after so many that do not fit, it gives up.
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
        image: (H, W, C), of which H and W may be unknown in a graph.
        areas: (least, most) share of the image.
        aspects: (least, most) width by height.
        seed: int32 (2,).

    Returns:
        (h, w, C) of the image's dtype.
    """
    import tensorflow as tf

    size = tf.shape(image)[:2]
    fits, *box = _random_box(
        tf.cast(size, "float32"),
        tf.cast(size, "float32"),
        areas,
        aspects,
        seed,
    )
    # If nothing fits: the largest of the allowed aspects, in the centre.
    least, most = aspects
    height, width = tf.unstack(tf.cast(size, "float32"))
    whole_height = tf.maximum(tf.minimum(height, tf.round(width / least)), 1.0)
    whole_width = tf.maximum(tf.minimum(width, tf.round(height * most)), 1.0)
    middle = ((height - whole_height) // 2, (width - whole_width) // 2)
    box = tf.where(fits, box, [*middle, whole_height, whole_width])
    top, left, height, width = tf.unstack(tf.cast(box, "int32"))
    # Not -1 for all channels: their number would be lost.
    return tf.slice(image, (top, left, 0), (height, width, image.shape[-1]))


def random_erasing(
    image: "tf.Tensor", probability: float, seed: "tf.Tensor"
) -> "tf.Tensor":
    """Fill a random box of an image with noise, with some probability.

    timm's mode `pixel`: the noise is normal in the space of normalised images, so of
    the ImageNet mean and standard deviation a channel here; beyond 0-255 it is
    clipped, which 3 % of it are.

    Args:
        image: float32 (height, width, C) in 0-255, of a static shape.
        probability: 0-1.
        seed: int32 (2,).

    Returns:
        An image of the same shape and range.
    """
    import tensorflow as tf

    height, width, channels = image.shape
    seeds = tf.random.experimental.stateless_split(seed, 3)
    size = tf.constant([height, width], "float32")
    # As in timm, a box is smaller than the image on both sides.
    fits, *box = _random_box(size, size - 1, _ERASED_AREA, _ERASED_ASPECT, seeds[0])
    top, left, box_height, box_width = (tf.cast(v, "int32") for v in box)

    def erased():
        mean, std = (
            255 * tf.constant(v if channels == len(v) else [sum(v) / len(v)])
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
    """Draw the first of some boxes that fits, as timm and torchvision do.

    Args:
        size: float32 (2,), the image's height and width.
        largest: float32 (2,), a box's.
        areas: (least, most) share of the image.
        aspects: (least, most) width by height.
        seed: int32 (2,).

    Returns:
        Whether any box fits, then top, left, height and width of that box in whole
        pixels: a bool and four float32, each ().
    """
    import tensorflow as tf

    drawn = tf.random.stateless_uniform((4, _ATTEMPTS), seed)
    area = _between(*areas, drawn[0]) * size[0] * size[1]
    # Evenly in the logarithm, so that flat boxes are as likely as tall ones.
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
    """Return bool (height, width, 1): which pixels are in a box; all are integers."""
    import tensorflow as tf

    rows, columns = tf.range(height), tf.range(width)
    row = (rows >= top) & (rows < top + box_height)
    column = (columns >= left) & (columns < left + box_width)
    return row[:, None, None] & column[None, :, None]
