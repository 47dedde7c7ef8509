"""The paper's augmentation compared with PIL and timm, and its seeds."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from varied import OFF, PLAIN, SIZE, augmented

from keras_cvt.data.augmentation import Augmentation, augment_batch, augment_image
from keras_cvt.data.augmentation_boxes import random_crop

tf = pytest.importorskip("tensorflow")
skimage_data = pytest.importorskip("skimage.data")

# Tests of steps that Keras computes in part. Others use only TensorFlow.
any_backend = pytest.mark.any_backend
BICUBIC = Image.Resampling.BICUBIC


@pytest.fixture(scope="module")
def recipe_images(pixels):
    return augmented(pixels, Augmentation(), 40)


# Seeds


def test_a_parallel_pipeline_gives_the_bits_of_a_sequential_one(pixels, recipe_images):
    found = augmented(pixels, Augmentation(), 40, parallel=None)
    np.testing.assert_array_equal(found, recipe_images)


def test_different_seeds_give_different_images(recipe_images):
    assert len(np.unique(recipe_images.reshape(40, -1), axis=0)) == 40


DIGEST = """
import hashlib
import numpy as np
import tensorflow as tf
from keras_cvt.data.augmentation import Augmentation, augment_batch, augment_image
image = tf.constant(np.arange(60 * 70 * 3).reshape(60, 70, 3) * 37 % 256, "uint8")
images = tf.data.Dataset.range(24).map(
    lambda i: augment_image(image, (32, 32), Augmentation(), [7, i]),
    num_parallel_calls=4,
)
batch = images.batch(24).map(
    lambda x: augment_batch(x, tf.eye(24), Augmentation(), [7, 7])
)
(images, labels), = batch.as_numpy_iterator()
digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
print(digest)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_another_process_with_another_backend_gives_the_same_bits(backend):
    here = {}
    exec(DIGEST, here)
    there = subprocess.run(
        [sys.executable, "-c", DIGEST],
        env={**os.environ, "KERAS_BACKEND": backend},
        check=True,
        capture_output=True,
        text=True,
    )
    assert there.stdout.split()[-1] == here["digest"]


# Images


def test_everything_off_is_a_clipped_bicubic_resize(pixels):
    (found,) = augmented(pixels, PLAIN, 1)
    resized = tf.image.resize(pixels, SIZE, "bicubic", antialias=True)
    np.testing.assert_array_equal(found, np.clip(resized, 0, 255))


def test_photos_are_resized_as_pil_does():
    photo = Image.fromarray(skimage_data.astronaut()).resize((400, 300), BICUBIC)
    found = augment_image(np.asarray(photo), (224, 224), PLAIN, [0, 0])
    wanted = np.asarray(photo.resize((224, 224), BICUBIC), "float32")
    difference = np.abs(np.round(found) - wanted)
    # At hard edges, where PIL clips between its two passes.
    assert difference.max() <= 13 and np.mean(difference > 1) < 1e-3


@any_backend
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_unknown_size_work_in_a_graph(pixels, channels):
    @tf.function(input_signature=[tf.TensorSpec((None, None, channels), tf.uint8)])
    def graph(image):
        return augment_image(image, SIZE, Augmentation(random_erasing=1.0), [7, 1])

    outputs = graph.get_concrete_function().structured_outputs
    assert outputs.shape == (*SIZE, channels)
    for crop in (pixels, pixels[:33, :61]):
        found = graph(crop[..., :channels])
        assert found.dtype == tf.float32
        assert found.numpy().min() >= 0 and found.numpy().max() <= 255


def test_an_image_augments_eagerly_as_in_a_pipeline(pixels, recipe_images):
    for seed, piped in enumerate(recipe_images[:6]):
        eager = augment_image(pixels, SIZE, Augmentation(), [7, seed])
        # Compiled arithmetic may end on the other side of a rounding.
        assert np.mean(np.abs(eager - piped) > 1) < 1e-3


def test_half_the_images_are_mirrored(pixels):
    found = augmented(pixels, dataclasses.replace(PLAIN, flip=True), 200)
    (plain,) = augmented(pixels, PLAIN, 1)
    mirrored = np.all(found == plain[:, ::-1], axis=(1, 2, 3))
    assert np.all(mirrored | np.all(found == plain, axis=(1, 2, 3)))
    assert 80 <= mirrored.sum() <= 120


def crops(image, areas, aspects, seeds=200):
    """Return float64 (seeds, 4): top, left, height and width of random crops."""
    places = np.stack(np.mgrid[: image[0], : image[1]], -1).astype("int32")

    def one(seed):
        crop = random_crop(tf.constant(places), areas, aspects, [7, seed])
        return tf.concat([crop[0, 0], tf.shape(crop)[:2]], axis=0)

    dataset = tf.data.Dataset.range(seeds).map(one)
    return np.stack([*dataset.as_numpy_iterator()]).astype("float64")


def test_crops_have_the_given_areas_and_aspects_at_uniform_places():
    top, left, height, width = crops((300, 400), (0.08, 0.6), (3 / 4, 4 / 3)).T
    assert (top + height).max() <= 300 and (left + width).max() <= 400
    area = height * width / (300 * 400)
    assert 0.079 < area.min() < 0.12 and 0.5 < area.max() < 0.603
    aspect = width / height
    assert 0.74 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.345
    # Uniform (the aspect in its logarithm), within about 4 standard errors.
    assert abs(area.mean() - 0.34) < 0.045
    assert abs(np.log(aspect).mean()) < 0.05
    for start, largest in ((top, 300 - height), (left, 400 - width)):
        assert abs((start / largest).mean() - 0.5) < 0.09


def test_an_image_that_no_crop_fits_is_cropped_in_the_centre():
    found = crops((20, 400), (0.9, 1.0), (3 / 4, 4 / 3), seeds=5)
    assert np.all(found == (0, 186, 20, 27))
    found = crops((400, 20), (0.9, 1.0), (3 / 4, 4 / 3), seeds=5)
    assert np.all(found == (186, 0, 27, 20))


def test_an_image_of_one_pixel_is_cropped_and_resized():
    found = augmented(np.full((1, 1, 3), 9, "uint8"), Augmentation(**OFF), 5)
    np.testing.assert_allclose(found, 9, atol=1e-3)


def test_padded_crops_move_by_at_most_the_padding(pixels):
    (plain,) = augmented(pixels, PLAIN, 1)
    framed = np.pad(plain, ((4, 4), (4, 4), (0, 0)))
    windows = {
        framed[y : y + SIZE[0], x : x + SIZE[1]].tobytes(): (y, x)
        for y in range(9)
        for x in range(9)
    }
    found = augmented(pixels, dataclasses.replace(PLAIN, crop_padding=4), 100)
    places = np.array([windows[image.tobytes()] for image in found])
    assert np.all(places.min(0) == 0) and np.all(places.max(0) == 8)


def test_erasing_fills_one_box_of_the_right_share_of_images(pixels):
    erasing = dataclasses.replace(PLAIN, random_erasing=0.25)
    (plain,) = augmented(pixels, PLAIN, 1)
    changed = np.any(augmented(pixels, erasing, 400) != plain, axis=-1)
    erased = [c for c in changed if c.any()]
    assert 70 <= len(erased) <= 130
    areas, aspects = [], []
    for change in erased:
        rows, columns = np.flatnonzero(change.any(1)), np.flatnonzero(change.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert change.sum() == height * width  # a box, all of it
        areas.append(height * width / change.size)
        aspects.append(width / height)
    # Whole pixels of a small image.
    assert 0.018 < min(areas) < 0.06 and 0.27 < max(areas) < 0.345
    assert 0.28 < min(aspects) < 0.5 and 2 < max(aspects) < 3.6


@pytest.mark.parametrize("channels", [1, 3])
def test_erasing_noise_has_the_imagenet_statistics(channels):
    image = np.zeros((9, 9, channels), "uint8")
    found = augmented(image, dataclasses.replace(PLAIN, random_erasing=1.0), 60)
    noise = found.reshape(-1, channels)
    noise = noise[np.any(noise != 0, axis=-1)]
    # The noise is clipped to 0-255, which changes its mean but not its median.
    mean = (123.7, 116.3, 103.5) if channels == 3 else (114.5,)
    np.testing.assert_allclose(np.median(noise, axis=0), mean, atol=2)
    spread = np.percentile(noise, 84.13, axis=0) - np.median(noise, axis=0)
    np.testing.assert_allclose(spread, 57.6, atol=2)
    assert noise.min() >= 0 and noise.max() <= 255


# Batches


def constant_images(values):
    values = np.array(values, "float32")
    return np.broadcast_to(values[:, None, None, None], (len(values), 30, 20, 3))


def mixes(images, augmentation, seeds):
    labels = np.eye(len(images), dtype="float32")
    mix = tf.function(lambda seed: augment_batch(images, labels, augmentation, seed))
    for seed in range(seeds):
        mixed, soft = mix(tf.constant([7, seed]))
        yield mixed.numpy(), soft.numpy()


def test_mixup_blends_pixels_and_labels_with_one_weight_per_batch():
    images = np.random.default_rng(0).uniform(0, 255, (4, 6, 5, 3)).astype("float32")
    weights = []
    for mixed, soft in mixes(images, Augmentation(cutmix=0), 300):
        kept = soft[0, 0]
        np.testing.assert_allclose(
            mixed, kept * images + (1 - kept) * images[::-1], rtol=1e-5, atol=1e-3
        )
        np.testing.assert_allclose(
            soft, kept * np.eye(4) + (1 - kept) * np.eye(4)[::-1], atol=1e-6
        )
        weights.append(kept)
    # Beta(0.8, 0.8) has the mean 0.5 and the standard deviation 0.31.
    assert abs(np.mean(weights) - 0.5) < 0.07 and abs(np.std(weights) - 0.31) < 0.04


def test_cutmix_labels_are_the_share_of_pixels():
    values = [0.0, 40.0, 120.0, 240.0]
    images = constant_images(values)
    shares = []
    for mixed, soft in mixes(images, Augmentation(mixup=0), 100):
        for i, label in enumerate(soft):
            shown = [(mixed[i, ..., 0] == value).mean() for value in values]
            np.testing.assert_allclose(label, shown, atol=1e-6)
        pasted = mixed[0, ..., 0] == 240
        rows, columns = pasted.any(1).sum(), pasted.any(0).sum()
        assert pasted.sum() == rows * columns  # a box
        shares.append(pasted.mean())
    # Without the edges, which cut boxes, the mean would be 1/2.
    assert 0.2 < np.mean(shares) < 0.45


def test_labels_of_a_batch_sum_to_one():
    for _, soft in mixes(constant_images([0, 90, 200]), Augmentation(), 30):
        np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
        assert soft.min() >= 0


def test_half_the_batches_get_mixup_and_half_cutmix():
    # Mixup changes all of an image alike; CutMix leaves values as they are.
    blended = [
        not np.isin(mixed, (0, 200)).all()
        for mixed, _ in mixes(constant_images([0, 200]), Augmentation(), 200)
    ]
    assert 75 <= sum(blended) <= 125


@any_backend
def test_a_batch_of_unknown_size_is_mixed_in_a_graph():
    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, None, 3)),
            tf.TensorSpec((None, 4)),
            tf.TensorSpec((2,), tf.int32),
        ]
    )
    def graph(images, labels, seed):
        return augment_batch(images, labels, Augmentation(), seed)

    images, labels = constant_images([0, 40, 120, 240]), np.eye(4, dtype="float32")
    for seed in range(5):
        found = graph(images, labels, [7, seed])
        wanted = augment_batch(images, labels, Augmentation(), [7, seed])
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-5)


def test_without_mixing_a_batch_stays_as_it_is():
    images = np.random.default_rng(0).random((2, 8, 8, 3), "float32")
    for mixed, labels in mixes(images, PLAIN, 2):
        np.testing.assert_array_equal(mixed, images)
        np.testing.assert_array_equal(labels, np.eye(2))


# Arguments


def test_the_default_is_the_papers():
    assert Augmentation().to_dict() == {
        "crop_scale": [0.08, 1.0],
        "crop_aspect": [3 / 4, 4 / 3],
        "crop_padding": 0,
        "flip": True,
        "rand_augment": 9.0,
        "rand_augment_ops": 2,
        "rand_augment_std": 0.5,
        "random_erasing": 0.25,
        "mixup": 0.8,
        "cutmix": 1.0,
        "repeats": 1,
    }


@pytest.mark.parametrize("crop_scale", [(0.5, 1.0), None])
def test_an_augmentation_survives_json(crop_scale):
    options = Augmentation(crop_scale=crop_scale, repeats=3)
    loaded = Augmentation.from_dict(json.loads(json.dumps(options.to_dict())))
    assert loaded == options and hash(loaded) == hash(options)


@pytest.mark.parametrize("change", [{"rotate": 1}, {"flip": None}])
def test_a_dictionary_with_other_fields_is_refused(change):
    fields = {**Augmentation().to_dict(), **change}
    if fields["flip"] is None:
        del fields["flip"]
    with pytest.raises(ValueError, match="Received: "):
        Augmentation.from_dict(fields)


@pytest.mark.parametrize(
    "options",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.8, 0.5)},
        {"crop_scale": (0.5, 1.5)},
        {"crop_scale": (float("nan"), 1.0)},
        {"crop_scale": ("a", "b")},
        {"crop_scale": 0.5},
        {"crop_aspect": None},
        {"crop_aspect": (1.0, float("inf"))},
        {"crop_padding": 4},
        {"crop_padding": -1, "crop_scale": None},
        {"rand_augment": 11},
        {"rand_augment": True},
        {"rand_augment_ops": 0},
        {"rand_augment_std": -0.5},
        {"random_erasing": 1.1},
        {"mixup": -0.1},
        {"cutmix": float("inf")},
        {"repeats": 0},
        {"flip": 1},
    ],
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        Augmentation(**options)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((8, 8), (4, 4)), ((1, 8, 8, 3), (4, 4)), ((8, 8, 3), (0, 4))],
)
def test_other_images_and_sizes_are_refused(shape, size):
    with pytest.raises(ValueError, match="Received: "):
        augment_image(np.zeros(shape, "uint8"), size, Augmentation(), [0, 0])


def test_an_unknown_number_of_channels_is_refused():
    @tf.function(input_signature=[tf.TensorSpec((None, None, None), tf.uint8)])
    def graph(image):
        return augment_image(image, SIZE, PLAIN, [0, 0])

    with pytest.raises(ValueError, match="Received: shape="):
        graph.get_concrete_function()
