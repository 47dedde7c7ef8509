"""Batches: what they hold, and that nothing but the seed decides it."""

import dataclasses
import itertools

import numpy as np
import pytest
from image_folders import write_folder

from keras_cvt import preprocess_input
from keras_cvt.data import (
    Augmentation,
    evaluation_batches,
    open_source,
    steps_per_epoch,
    training_batches,
)
from keras_cvt.preprocessing import EvalTransform

tf = pytest.importorskip("tensorflow")

PLAIN = Augmentation(
    crop_scale=None, flip=False, rand_augment=0, random_erasing=0, mixup=0, cutmix=0
)
SIZE = (24, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), count=7)


@pytest.fixture(scope="module")
def source(folder):
    return open_source(folder, "train")


@pytest.fixture(scope="module")
def streamed(source):
    """The same images as encoded bytes, as TensorFlow Datasets gives them."""
    return dataclasses.replace(source, items=source.examples, paths=False)


def batches(source, count, **arguments):
    arguments = {"augmentation": Augmentation(), "seed": 3, **arguments}
    dataset = training_batches(source, SIZE, 4, **arguments)
    return [
        (images.numpy(), labels.numpy())
        for images, labels in itertools.islice(dataset, count)
    ]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_batches_are_float_images_of_0_to_255_and_one_hot_labels(source):
    ((images, labels),) = batches(source, 1, augmentation=PLAIN)
    assert (images.shape, images.dtype) == ((4, 24, 32, 3), np.float32)
    assert 0 <= images.min() and 100 < images.max() <= 255
    assert (labels.shape, labels.dtype) == ((4, 2), np.float32)
    assert (labels.sum(1) == 1).all()


def test_an_epoch_has_each_image_at_most_once(source):
    steps = steps_per_epoch(source, 4)
    assert steps == 3
    images = np.concatenate([x for x, _ in batches(source, steps, augmentation=PLAIN)])
    assert len(np.unique(images, axis=0)) == 12


@pytest.mark.parametrize("kind", ["source", "streamed"])
def test_epochs_have_different_orders(kind, request):
    found = batches(request.getfixturevalue(kind), 6, augmentation=PLAIN)
    first, second = (
        np.concatenate([y for _, y in part]) for part in (found[:3], found[3:])
    )
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("kind", ["source", "streamed"])
@pytest.mark.parametrize("options", [{}, {"cache": True}])
def test_a_resumed_epoch_sees_what_it_would_have_seen(kind, options, request):
    images = request.getfixturevalue(kind)
    whole = batches(images, 9, shuffle_buffer=5, **options)
    resumed = batches(images, 3, shuffle_buffer=5, initial_epoch=2, **options)
    assert_same(resumed, whole[6:])


def test_the_global_seed_changes_nothing(source):
    tf.random.set_seed(0)
    expected = batches(source, 2)
    tf.random.set_seed(7)
    assert_same(batches(source, 2), expected)


def test_another_seed_gives_other_batches(source):
    (first, _), (second, _) = (batches(source, 1, seed=seed)[0] for seed in (3, 4))
    assert np.abs(first - second).mean() > 1


def test_a_cache_gives_the_same_and_needs_the_files_no_more(tmp_path):
    images = open_source(write_folder(tmp_path, ["train"], count=7), "train")
    expected = batches(images, 6)
    dataset = iter(
        training_batches(
            images, SIZE, 4, augmentation=Augmentation(), seed=3, cache=True
        )
    )
    found = [next(dataset) for _ in range(3)]
    for path in tmp_path.rglob("*.*"):
        path.unlink()
    found += [next(dataset) for _ in range(3)]
    assert_same([(x.numpy(), y.numpy()) for x, y in found], expected)


def test_shards_together_are_the_batch_of_one_process(source):
    mix_free = dataclasses.replace(Augmentation(), mixup=0, cutmix=0)
    expected = batches(source, 5, augmentation=mix_free)
    shards = [batches(source, 5, augmentation=mix_free, shard=(i, 2)) for i in range(2)]
    joined = [
        tuple(map(np.concatenate, zip(*parts, strict=True)))
        for parts in zip(*shards, strict=True)
    ]
    assert_same(joined, expected)


def test_repeats_are_copies_of_fewer_images(source):
    repeated = dataclasses.replace(PLAIN, repeats=2)
    images = np.concatenate([x for x, _ in batches(source, 3, augmentation=repeated)])
    _, counts = np.unique(images, axis=0, return_counts=True)
    assert counts.tolist() == [2] * 6


def test_repeats_are_augmented_differently(source):
    repeated = Augmentation(repeats=2, mixup=0, cutmix=0)
    ((images, labels),) = batches(source, 1, augmentation=repeated)
    assert (labels[0] == labels[1]).all()
    assert np.abs(images[0] - images[1]).mean() > 1


def test_fewer_images_than_a_batch_are_an_error_before_training(source):
    with pytest.raises(ValueError, match="A batch needs 15 images; the source has 14"):
        training_batches(source, SIZE, 15, augmentation=PLAIN)


@pytest.mark.parametrize("shard", [(2, 2), (0, 3), (-1, 2)])
def test_a_shard_that_cannot_be_is_refused(source, shard):
    with pytest.raises(ValueError, match="Received: shard="):
        training_batches(source, SIZE, 4, augmentation=PLAIN, shard=shard)
    with pytest.raises(ValueError, match="Received: shard="):
        evaluation_batches(source, EvalTransform(SIZE, None), 4, shard=shard)


def test_evaluation_images_are_those_of_preprocess_input(folder, source):
    transform = EvalTransform((24, 24), 0.875)
    found = list(evaluation_batches(source, transform, 4))
    images, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    paths = sorted((folder / "train").rglob("*.*"))
    # From PIL's to TensorFlow's resizing at most 2 levels; see `preprocess_input`.
    np.testing.assert_allclose(images, preprocess_input(paths, transform), atol=2)
    assert labels.argmax(1).tolist() == [0] * 7 + [1] * 7
    assert [len(y) for _, y in found] == [4, 4, 4, 2]


def test_evaluation_shards_together_are_the_whole_batches(source):
    transform = EvalTransform(SIZE, None)
    expected = [x.numpy() for x, _ in evaluation_batches(source, transform, 4)][:3]
    shards = [
        [x.numpy() for x, _ in evaluation_batches(source, transform, 4, shard=(i, 2))]
        for i in range(2)
    ]
    joined = [np.concatenate(parts) for parts in zip(*shards, strict=True)]
    np.testing.assert_array_equal(joined, expected)
