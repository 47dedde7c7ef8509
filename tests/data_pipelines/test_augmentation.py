"""The paper's augmentation against PIL and against its own numbers."""

import json

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from keras_cvt.data import Augmentation
from keras_cvt.data.augmentation import augment_batch, augment_image
from keras_cvt.data.rand_augment import OPERATIONS

tf = pytest.importorskip("tensorflow")
skimage_data = pytest.importorskip("skimage.data")

OFF = {"flip": False, "rand_augment": 0, "random_erasing": 0, "mixup": 0, "cutmix": 0}
MEAN = (124, 116, 104)


@pytest.fixture(scope="module")
def photo():
    image = Image.fromarray(skimage_data.astronaut())
    return image.resize((120, 90), Image.Resampling.BICUBIC)


def augmented(image, seed, size=(48, 48), **options):
    image = tf.constant(np.asarray(image))
    return augment_image(image, size, Augmentation(**options), [0, seed]).numpy()


def affine(image, *matrix):
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=MEAN,
    )


# Operation -> PIL's way, and the levels by which most pixels may differ.
PIL_WAYS = {
    "auto_contrast": (lambda i: ImageOps.autocontrast(i), 1.5),
    "equalize": (lambda i: ImageOps.equalize(i), 0),
    "invert": (lambda i: ImageOps.invert(i), 0),
    "posterize": (lambda i: ImageOps.posterize(i, 2), 0),
    "solarize": (lambda i: ImageOps.solarize(i, 128), 0),
    "color": (lambda i: ImageEnhance.Color(i).enhance(1.45), 1.5),
    "contrast": (lambda i: ImageEnhance.Contrast(i).enhance(1.45), 1.5),
    "brightness": (lambda i: ImageEnhance.Brightness(i).enhance(1.45), 1.5),
    "sharpness": (lambda i: ImageEnhance.Sharpness(i).enhance(1.45), 1.5),
    "rotate": (lambda i: i.rotate(15, Image.Resampling.BILINEAR, fillcolor=MEAN), 1.5),
    "shear_x": (lambda i: affine(i, 1, 0.15, 0, 0, 1, 0), 12),
    "shear_y": (lambda i: affine(i, 1, 0, 0, 0.15, 1, 0), 12),
    "translate_x": (lambda i: affine(i, 1, 0, 27, 0, 1, 0), 1.5),
    "translate_y": (lambda i: affine(i, 1, 0, 0, 0, 1, 20.25), 12),
}


@pytest.mark.parametrize("name", PIL_WAYS)
def test_an_operation_at_half_its_magnitude_is_pils(photo, name):
    pil, levels = PIL_WAYS[name]
    image = tf.constant(np.asarray(photo), "float32")
    result = OPERATIONS[name](image, tf.constant(0.5), tf.constant(1.0)).numpy()
    difference = np.abs(result - np.asarray(pil(photo), "float32"))
    assert result.min() >= 0 and result.max() <= 255
    assert np.percentile(difference, 98) <= levels, difference.mean()


def test_solarize_add_brightens_the_dark_half():
    image = tf.constant([[[0.0, 127.0, 128.0]]])
    result = OPERATIONS["solarize_add"](image, tf.constant(0.5), tf.constant(1.0))
    np.testing.assert_array_equal(result[0, 0], [55, 182, 128])


def test_the_same_seed_gives_the_same_bits_in_a_parallel_pipeline(photo):
    image = tf.constant(np.asarray(photo))
    options = Augmentation()

    def one(seed):
        return augment_image(image, (48, 48), options, [0, seed])

    seeds = tf.data.Dataset.range(40).map(lambda seed: tf.cast(seed, "int32"))
    first, second = (
        np.stack([*seeds.map(one, num_parallel_calls=4).as_numpy_iterator()])
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first.reshape(40, -1), axis=0)) == 40
    assert first.min() >= 0 and first.max() <= 255


def test_everything_off_is_a_resize(photo):
    expected = np.asarray(photo.resize((48, 48), Image.Resampling.BICUBIC))
    found = augmented(photo, 0, crop_scale=None, **OFF)
    # PIL clips and rounds between its two passes.
    assert np.percentile(np.abs(found - expected), 99) <= 1.5


def test_half_the_images_are_mirrored(photo):
    options = {"crop_scale": None, **OFF, "flip": True}
    plain = augmented(photo, 0, crop_scale=None, **OFF)
    mirrored = 0
    for seed in range(100):
        found = augmented(photo, seed, **options)
        is_mirror = np.array_equal(found, plain[:, ::-1])
        assert is_mirror or np.array_equal(found, plain)
        mirrored += is_mirror
    assert 35 <= mirrored <= 65


def test_random_crops_have_the_scale_and_the_aspect_asked_for():
    # Each pixel holds its place, so that the result shows what was cropped.
    rows, columns = np.mgrid[:200, :200].astype("uint8")
    places = np.stack([rows, columns, columns], -1)
    areas, aspects = [], []
    for seed in range(200):
        found = augmented(places, seed, crop_scale=(0.2, 0.6), **OFF)
        height = np.ptp(found[:, 24, 0]) * 48 / 47
        width = np.ptp(found[24, :, 1]) * 48 / 47
        areas.append(height * width / 200**2)
        aspects.append(width / height)
    assert 0.18 < min(areas) < 0.25 and 0.5 < max(areas) < 0.62
    assert 0.7 < min(aspects) < 0.85 and 1.2 < max(aspects) < 1.42


def test_padded_crops_move_by_at_most_the_padding(photo):
    plain = augmented(photo, 0, crop_scale=None, **OFF)
    framed = np.pad(plain, ((4, 4), (4, 4), (0, 0)))
    crops = {(y, x): framed[y : y + 48, x : x + 48] for y in range(9) for x in range(9)}
    places = set()
    for seed in range(30):
        found = augmented(photo, seed, crop_scale=None, crop_padding=4, **OFF)
        places |= {p for p, crop in crops.items() if np.array_equal(found, crop)}
    assert len(places) > 15


def test_erasing_hits_the_share_of_images_and_area_asked_for(photo):
    plain = augmented(photo, 0, crop_scale=None, **OFF)
    options = {"crop_scale": None, **OFF, "random_erasing": 0.5}
    areas = []
    for seed in range(200):
        changed = np.any(augmented(photo, seed, **options) != plain, axis=-1)
        if changed.any():
            areas.append(changed.mean())
    assert 70 <= len(areas) <= 130
    assert min(areas) > 0.01 and 0.25 < max(areas) < 0.36


@pytest.mark.parametrize(
    "options",
    [{"mixup": 0.8, "cutmix": 0}, {"mixup": 0, "cutmix": 1.0}, {}],
)
def test_labels_are_mixed_as_much_as_pixels(options):
    # Images of a constant colour: their mean says how much of each there is.
    values = np.array([0.0, 40.0, 120.0, 240.0], "float32")
    images = np.broadcast_to(values[:, None, None, None], (4, 30, 20, 3))
    labels = np.eye(4, dtype="float32")
    weights = set()
    for seed in range(40):
        mixed, soft = augment_batch(images, labels, Augmentation(**options), [1, seed])
        np.testing.assert_allclose(
            mixed.numpy().mean((1, 2, 3)), soft.numpy() @ values, rtol=1e-4, atol=1e-2
        )
        np.testing.assert_allclose(soft.numpy().sum(1), 1, rtol=1e-6)
        weights.add(round(float(soft[0, 0]), 4))
    assert len(weights) > 30


def test_mixup_and_cutmix_take_turns():
    images = np.zeros((2, 30, 30, 3), "float32")
    images[1] = 200
    kinds = []
    for seed in range(60):
        mixed, _ = augment_batch(images, np.eye(2), Augmentation(), [2, seed])
        kinds.append(len(np.unique(mixed[0].numpy())) == 1)
    # Mixup changes all of an image alike; CutMix may cover all or nothing of it.
    assert 15 < sum(kinds) < 45


def test_without_mixing_a_batch_stays_as_it_is():
    images = np.random.default_rng(0).random((2, 8, 8, 3), "float32")
    mixed, labels = augment_batch(
        images, np.eye(2), Augmentation(mixup=0, cutmix=0), [0, 0]
    )
    np.testing.assert_array_equal(mixed, images)
    np.testing.assert_array_equal(labels, np.eye(2))


def test_an_augmentation_survives_json():
    options = Augmentation(crop_scale=(0.5, 1.0), repeats=3)
    loaded = Augmentation.from_dict(json.loads(json.dumps(options.to_dict())))
    assert loaded == options and hash(loaded) == hash(options)


@pytest.mark.parametrize(
    "options",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.8, 0.5)},
        {"crop_scale": 0.5},
        {"crop_aspect": None},
        {"crop_padding": 4},
        {"rand_augment": 11},
        {"random_erasing": 1.1},
        {"mixup": -0.1},
        {"repeats": 0},
        {"flip": 1},
    ],
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        Augmentation(**options)
