"""RandAugment's operations compared with PIL's."""

import dataclasses
import threading

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from varied import MEAN, PLAIN, augmented

from keras_cvt.data.rand_augment import OPERATIONS

tf = pytest.importorskip("tensorflow")

# Tests of steps that Keras computes in part. Others use only TensorFlow.
any_backend = pytest.mark.any_backend
BICUBIC = Image.Resampling.BICUBIC


def affine(image, *matrix):
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, BICUBIC, fillcolor=MEAN
    )


def enhanced(kind):
    return lambda i, level, sign: kind(i).enhance(1 + sign * 0.9 * level)


# Operation -> largest difference in levels (of 255), and the same with PIL.
PIL_OPERATIONS = {
    "auto_contrast": (1, lambda i, level, sign: ImageOps.autocontrast(i)),
    "equalize": (0, lambda i, level, sign: ImageOps.equalize(i)),
    "invert": (0, lambda i, level, sign: ImageOps.invert(i)),
    "posterize": (
        0,
        lambda i, level, sign: ImageOps.posterize(i, 4 - int(level * 4)),
    ),
    "solarize": (
        0,
        lambda i, level, sign: ImageOps.solarize(i, 256 - int(level * 256)),
    ),
    "solarize_add": (
        0,
        lambda i, level, sign: i.point(
            lambda v: min(255, v + int(level * 110)) if v < 128 else v
        ),
    ),
    "color": (1, enhanced(ImageEnhance.Color)),
    "contrast": (1, enhanced(ImageEnhance.Contrast)),
    "brightness": (1, enhanced(ImageEnhance.Brightness)),
    "sharpness": (1, enhanced(ImageEnhance.Sharpness)),
    "rotate": (
        1,
        lambda i, level, sign: i.rotate(30 * sign * level, BICUBIC, fillcolor=MEAN),
    ),
    "shear_x": (
        1,
        lambda i, level, sign: affine(i, 1, 0.3 * sign * level, 0, 0, 1, 0),
    ),
    "shear_y": (
        1,
        lambda i, level, sign: affine(i, 1, 0, 0, 0.3 * sign * level, 1, 0),
    ),
    "translate_x": (
        1,
        lambda i, level, sign: affine(i, 1, 0, 0.45 * sign * level * i.width, 0, 1, 0),
    ),
    "translate_y": (
        1,
        lambda i, level, sign: affine(i, 1, 0, 0, 0, 1, 0.45 * sign * level * i.height),
    ),
}


def test_every_operation_is_compared_with_pil():
    assert set(PIL_OPERATIONS) == set(OPERATIONS) and len(OPERATIONS) == 15


@any_backend
@pytest.mark.parametrize("name", PIL_OPERATIONS)
@pytest.mark.parametrize("dull", [False, True], ids=["full_range", "dull"])
def test_an_operation_agrees_with_pil(photo, name, dull):
    levels, pil = PIL_OPERATIONS[name]
    image = photo.point(lambda v: 40 + v * 150 // 255) if dull else photo
    operation = tf.function(OPERATIONS[name])
    for level in (0.5, 0.9):
        for sign in (1.0, -1.0):
            found = operation(
                tf.constant(np.asarray(image), "float32"),
                tf.constant(level),
                tf.constant(sign),
            )
            wanted = np.asarray(pil(image, level, sign), "float32")
            assert np.abs(found - wanted).max() <= levels
            assert np.array_equal(found, np.round(found))


def test_posterize_leaves_nothing_at_the_largest_magnitude(pixels):
    image = tf.constant(pixels, "float32")
    assert not OPERATIONS["posterize"](image, tf.constant(1.0), 1.0).numpy().any()


@any_backend
@pytest.mark.parametrize("name", ["auto_contrast", "equalize"])
def test_an_image_of_one_value_keeps_it(name):
    image = tf.fill((8, 8, 3), 77.0)
    np.testing.assert_array_equal(OPERATIONS[name](image, 0.5, 1.0), image)


@any_backend
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 4])
def test_an_operation_takes_any_number_of_channels(pixels, name, channels):
    image = tf.repeat(tf.constant(pixels[..., :1], "float32"), channels, axis=-1)
    found = OPERATIONS[name](image, tf.constant(0.9), tf.constant(1.0)).numpy()
    assert found.shape == image.shape and found.min() >= 0 and found.max() <= 255
    if name == "color":
        np.testing.assert_array_equal(found, image)


def test_a_quarter_of_the_images_pass_rand_augment_untouched(pixels):
    # Two operations of probability 1/2; a few do not change a photo like this.
    found = augmented(pixels, dataclasses.replace(PLAIN, rand_augment=9.0), 200)
    plain = np.round(augmented(pixels, PLAIN, 1))
    untouched = np.mean(np.all(found == plain, axis=(1, 2, 3)))
    assert 0.17 < untouched < 0.40


@any_backend
def test_threads_may_trace_at_the_same_time():
    errors = []

    def trace():
        try:
            for _ in range(20):
                operation = tf.function(OPERATIONS["auto_contrast"])
                operation.get_concrete_function(
                    tf.TensorSpec((8, 8, 3)), tf.TensorSpec(()), tf.TensorSpec(())
                )
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=trace) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
