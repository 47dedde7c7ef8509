"""Encoded images: reading, decoding, and finding those that cannot be decoded."""

import os
from typing import TYPE_CHECKING

from keras_cvt.data.imports import tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

# Batches made ahead of the one that is asked for.
PREFETCHED = 2
# What `tf.io.decode_image` reads.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


def parallel() -> dict:
    """Return the arguments of a map that runs on all cores and keeps the order."""
    return {"num_parallel_calls": tensorflow().data.AUTOTUNE, "deterministic": True}


def untuned() -> "tf.data.Options":
    """Return the options of a pipeline that TensorFlow does not tune as it runs.

    Its tuner looks at the pipeline at intervals that double up to a minute, and now and
    then the end of training waits for the next of them. Maps then run on all cores.
    """
    options = tensorflow().data.Options()
    options.autotune.enabled = False
    # Without the tuner TensorFlow takes 16 at most.
    options.autotune.initial_parallelism = os.cpu_count()
    return options


def read(files: "tf.data.Dataset") -> "tf.data.Dataset":
    """Turn (path, label) into (encoded image, label)."""
    tf = tensorflow()
    return files.map(lambda path, label: (tf.io.read_file(path), label), **parallel())


def decode(encoded: "tf.Tensor", channels: int, ratio: int = 1) -> "tf.Tensor":
    """Decode an image as PIL does; of an animation the first frame.

    Args:
        encoded: Scalar string: a JPEG, PNG, BMP or GIF file.
        channels: 3, or 1 for PIL's "L".
        ratio: Decode JPEG at 1/1, 1/2, 1/4 or 1/8 of its size.

    Returns:
        uint8, (H, W, channels).
    """
    tf = tensorflow()
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(
            encoded, 3, ratio=ratio, dct_method="INTEGER_ACCURATE"
        ),
        lambda: tf.io.decode_image(encoded, 3, expand_animations=False),
    )
    image.set_shape((None, None, 3))
    # TensorFlow decodes neither CMYK JPEG, nor BMP, nor GIF to one channel.
    return image if channels == 3 else tf.image.rgb_to_grayscale(image)


def readable(examples: "tf.data.Dataset") -> "tf.data.Dataset":
    """Keep of (encoded image, label) what can be decoded: (index, label, size).

    Training's own decoder judges, because PIL does not agree with it: PIL reads BMP of
    one bit, and PNG without an end.
    """
    tf = tensorflow()

    def probe(index, example):
        encoded, label = example
        # At an eighth of the size, damaged JPEG fails all the same, in less time. The
        # size is returned so that TensorFlow does not skip the decoding.
        return index, label, tf.size(decode(encoded, 3, ratio=8))

    return examples.enumerate().map(probe, **parallel()).ignore_errors()
