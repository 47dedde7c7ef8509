"""Reading and decoding of image files in `tf.data`."""

from collections.abc import Callable
from typing import Any

from keras_cvt._utils import pipelines
from keras_cvt._utils.optional import tf
from keras_cvt.preprocessing import decoding


def parallel_map(
    dataset: "tf.data.Dataset", function: Callable[..., Any]
) -> "tf.data.Dataset":
    """Map a function on all cores; the order stays."""
    return dataset.map(function, tf.data.AUTOTUNE, deterministic=True)


def prefetch(batches: "tf.data.Dataset", steps: int) -> "tf.data.Dataset":
    """Make two batches in advance, without tf.data's tuner, on all cores.

    Args:
        batches: Batches. TensorFlow may not know how many.
        steps: Number of batches, or `tf.data.INFINITE_CARDINALITY`.
    """
    batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
    return pipelines.untuned(batches.prefetch(2))


def read_files(files: "tf.data.Dataset") -> "tf.data.Dataset":
    """Read the files of (path, *rest): return (encoded image, *rest)."""
    return parallel_map(files, lambda path, *rest: (tf.io.read_file(path), *rest))


def decode_image(encoded: "tf.Tensor", channels: int, ratio: int = 1) -> "tf.Tensor":
    """Decode an image as `preprocess_input` reads it.

    Args:
        encoded: The content of a file in a format that Pillow reads, a scalar string.
        channels: 3, or 1 for the grey values of PIL's mode "L".
        ratio: 1, 2, 4 or 8: JPEG is decoded at 1 / `ratio` of its size. Defaults to
            `1`.

    Returns:
        uint8 (H, W, channels).
    """
    image = decoding.decode(encoded, ratio=ratio)
    return image if channels == 3 else tf.image.rgb_to_grayscale(image)


def find_readable(examples: "tf.data.Dataset") -> "tf.data.Dataset":
    """Try to decode each image, and return those that can be decoded.

    It uses the decoder of training: PIL alone would read PNG without an end.

    Args:
        examples: (encoded image, label).

    Returns:
        (index, label, number of decoded values).
    """

    def probe(index, example):
        encoded, label = example
        # A damaged JPEG fails at an eighth of its size as well, in less time. The
        # number of values is returned so that TensorFlow does not skip the decoding.
        return index, label, tf.size(decode_image(encoded, 3, ratio=8))

    return parallel_map(examples.enumerate(), probe).ignore_errors()
