"""Decoding of image files in TensorFlow graphs, with the pixels that Pillow gives."""

import io
from collections.abc import Callable

import numpy as np

from keras_cvt._utils.optional import tf
from keras_cvt.preprocessing import pil
from keras_cvt.preprocessing.tensors import assert_size

_PNG = b"\x89PNG\r\n\x1a\n"
# The marker of Adobe's programs, without which readers disagree on CMYK.
_ADOBE = r"\C*\x00\x0eAdobe\C*"


def decode_with_pil(encoded: "tf.Tensor") -> "tf.Tensor":
    """Decode a file in any format that Pillow reads, to uint8 (H, W, 3)."""
    read = tf.autograph.experimental.do_not_convert(_read)
    return tf.numpy_function(read, [encoded], "uint8", stateful=False)


def _read(content):
    return np.asarray(pil.read_rgb(io.BytesIO(content)))


def refuse(encoded: "tf.Tensor") -> "tf.Tensor":
    """Fail with InvalidArgument, where a graph has to do without Pillow."""
    expected = "Expected a JPEG file in RGB, greyscale or Adobe's CMYK, or a PNG file"
    received = [f"{expected}. Received: ", tf.strings.length(encoded), "other bytes"]
    with tf.control_dependencies([tf.debugging.Assert(False, received)]):
        return tf.zeros((1, 1, 3), "uint8")


def decode(
    encoded: "tf.Tensor",
    others: "Callable[[tf.Tensor], tf.Tensor]" = decode_with_pil,
    ratio: int = 1,
) -> "tf.Tensor":
    """Decode an image file to the pixels that `preprocess_input` reads from it.

    TensorFlow decodes JPEG and PNG, in which it agrees with Pillow. An image of more
    pixels than Pillow reads fails with InvalidArgument before it is decoded.

    Args:
        encoded: The content of a file, a scalar string.
        others: What decodes all other files: `decode_with_pil`, or `refuse` for a
            graph that is saved.
        ratio: 1, 2, 4 or 8: JPEG is decoded at 1 / `ratio` of its size. Defaults to
            `1`.

    Returns:
        uint8 (H, W, 3).
    """

    def jpeg():
        height, width, channels = tf.unstack(tf.image.extract_jpeg_shape(encoded))

        def plain():
            with tf.control_dependencies([assert_size(height, width)]):
                # The default method differs by up to 10 levels.
                method = "INTEGER_ACCURATE"
                return tf.io.decode_jpeg(encoded, 3, ratio=ratio, dct_method=method)

        def four_channels():
            adobe = tf.strings.regex_full_match(encoded, _ADOBE)
            return tf.cond(adobe, plain, lambda: others(encoded))

        return tf.cond(channels < 4, plain, four_channels)

    def png():
        header = tf.strings.substr(encoded, 16, 8)
        width, height = tf.unstack(tf.io.decode_raw(header, "int32", False), 2)
        with tf.control_dependencies([assert_size(height, width)]):
            return tf.io.decode_png(encoded, 3)

    def not_jpeg():
        is_png = tf.strings.substr(encoded, 0, len(_PNG)) == _PNG
        return tf.cond(is_png, png, lambda: others(encoded))

    return tf.ensure_shape(
        tf.cond(tf.io.is_jpeg(encoded), jpeg, not_jpeg), (None, None, 3)
    )
