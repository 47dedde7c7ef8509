"""Batches: their content and order, which are the same in a resumed run."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cvt import data, preprocess_input
from keras_cvt.data import Augmentation
from keras_cvt.preprocessing import EvalTransform

tf = pytest.importorskip("tensorflow")

SIZE = (12, 10)
CLASSES = ("cat", "dog", "emu")
# Many random steps for each image, but none that is slow to trace.
LIVELY = Augmentation(crop_scale=(0.3, 1.0), rand_augment=0, mixup=0, cutmix=0)
MIXING = dataclasses.replace(LIVELY, mixup=0.8, cutmix=1.0)


def shade(i):
    """Return the colour that identifies image `i`."""
    return (5 * i, 255 - 5 * i, 2 * i)


def write_folder(root, count=30, split="train"):
    for i in range(count):
        path = root / split / CLASSES[i * 3 // count] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (14, 11), shade(i)).save(path)
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def source(folder):
    return data.open_source(folder, "train")


@pytest.fixture(scope="module")
def stream(source):
    """The same images without their paths, as TensorFlow Datasets give them."""
    return dataclasses.replace(source, files=None)


def numbers(images):
    """Return the numbers of the images that have these colours."""
    return [round(float(red) / 5) for red in np.asarray(images)[:, 0, 0, 0]]


def batches(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


# Training


def test_training_batches_hold_images_of_0_to_255_and_one_hot_labels(source):
    dataset = data.training_batches(source, SIZE, 8)
    images, labels = dataset.element_spec
    assert (images.shape, images.dtype) == ((8, *SIZE, 3), "float32")
    assert (labels.shape, labels.dtype) == ((8, 3), "float32")
    for images, labels in batches(dataset, 3):
        for image, label, i in zip(images, labels, numbers(images), strict=True):
            np.testing.assert_array_equal(image, np.broadcast_to(shade(i), image.shape))
            assert label.tolist() == np.eye(3)[i // 10].tolist()


@pytest.mark.parametrize("kind", ["source", "stream"])
def test_an_epoch_has_every_image_at_most_once_in_an_order_of_its_own(kind, request):
    source = request.getfixturevalue(kind)
    steps = data.steps_per_epoch(source, 8)
    assert steps == 3
    seen = [numbers(x) for x, _ in batches(data.training_batches(source, SIZE, 8), 9)]
    epochs = [sum(seen[i : i + 3], []) for i in (0, 3, 6)]
    assert all(len(set(epoch)) == 24 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != sorted(epochs[2])
    # An image that one epoch leaves out is in another.
    assert set(sum(epochs, [])) == {*range(30)}


@pytest.mark.parametrize("kind", ["source", "stream"])
@pytest.mark.parametrize(
    "augmentation",
    [None, MIXING, dataclasses.replace(MIXING, repeats=3)],
    ids=["plain", "mixing", "repeated"],
)
def test_a_resumed_run_sees_the_same_batches(kind, augmentation, request):
    source = request.getfixturevalue(kind)
    options = {"augmentation": augmentation, "seed": 7, "shuffle_buffer": 11}
    whole = batches(data.training_batches(source, SIZE, 8, **options), 9)
    resumed = data.training_batches(source, SIZE, 8, initial_epoch=1, **options)
    assert_equal(whole[3:], batches(resumed, 6))


def test_the_papers_augmentation_is_the_same_in_a_resumed_run(source):
    options = {"augmentation": Augmentation(repeats=3)}
    whole = batches(data.training_batches(source, SIZE, 8, **options), 9)
    resumed = data.training_batches(source, SIZE, 8, initial_epoch=2, **options)
    assert_equal(whole[6:], batches(resumed, 3))


def test_neither_tensorflows_nor_keras_seed_changes_the_batches(source):
    seen = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        dataset = data.training_batches(source, SIZE, 8, augmentation=MIXING)
        seen.append(batches(dataset, 4))
    assert_equal(*seen)


def test_another_seed_gives_another_order_and_augmentation(source):
    first, second = (
        batches(data.training_batches(source, SIZE, 8, seed=seed), 3) for seed in (0, 1)
    )
    assert [numbers(x) for x, _ in first] != [numbers(x) for x, _ in second]
    whole = dataclasses.replace(source, count=1, files=source.files.take(1))
    crops = [
        data.training_batches(whole, SIZE, 1, augmentation=LIVELY, seed=seed)
        for seed in (0, 1)
    ]
    assert not np.array_equal(*(batches(crop, 1)[0][0] for crop in crops))


def test_an_image_is_varied_anew_in_every_epoch(source):
    one = dataclasses.replace(source, count=1, files=source.files.take(1))
    dataset = data.training_batches(one, SIZE, 1, augmentation=LIVELY)
    seen = {images.tobytes() for images, _ in batches(dataset, 8)}
    assert len(seen) > 4


def test_small_images_are_squashed_as_the_evaluation_would(folder, source):
    ((images, _),) = batches(data.training_batches(source, (24, 40), 30), 1)
    path = sorted(folder.glob("train/*/*.png"))[numbers(images)[0]]
    expected = preprocess_input(path, EvalTransform((24, 40), None))[0]
    np.testing.assert_array_equal(images[0], expected)


def test_repeated_augmentation_shows_fewer_images_several_times(source):
    plain = Augmentation(None, flip=False, rand_augment=0, random_erasing=0, mixup=0)
    augmentation = dataclasses.replace(plain, cutmix=0, repeats=3)
    assert data.steps_per_epoch(source, 8) == 3
    dataset = data.training_batches(source, SIZE, 8, augmentation=augmentation)
    seen = sum((numbers(images) for images, _ in batches(dataset, 3)), [])
    assert [seen[i : i + 3] for i in range(0, 24, 3)] == [[i] * 3 for i in seen[::3]]
    assert len({*seen}) == 8


def test_repeated_images_are_each_augmented_differently(source):
    augmentation = dataclasses.replace(LIVELY, repeats=3)
    dataset = data.training_batches(source, SIZE, 3, augmentation=augmentation)
    ((images, labels),) = batches(dataset, 1)
    assert len({image.tobytes() for image in images}) == 3
    assert len({label.tobytes() for label in labels}) == 1


@pytest.mark.parametrize(("kind", "repeats"), [("source", 3), ("stream", 1)])
def test_the_processes_shares_make_up_the_batch_of_one_process(kind, repeats, request):
    source = request.getfixturevalue(kind)
    options = {"augmentation": dataclasses.replace(LIVELY, repeats=repeats)}
    whole = batches(data.training_batches(source, SIZE, 8, **options), 5)
    shares = [
        batches(data.training_batches(source, SIZE, 8, shard=(i, 2), **options), 5)
        for i in range(2)
    ]
    assert shares[0][0][0].shape == (4, *SIZE, 3)
    joined = [
        tuple(map(np.concatenate, zip(*parts, strict=True)))
        for parts in zip(*shares, strict=True)
    ]
    assert_equal(joined, whole)


@pytest.mark.parametrize("kind", ["source", "stream"])
@pytest.mark.parametrize("to_file", [False, True])
def test_cached_images_are_read_only_once(kind, to_file, tmp_path, request):
    root = write_folder(tmp_path / "photos")
    source = data.open_source(root, "train")
    if kind == "stream":
        source = dataclasses.replace(source, files=None)
    cache = str(tmp_path / "cache") if to_file else True
    # With so many repeats, an epoch does not reach the last image.
    options = {"augmentation": dataclasses.replace(LIVELY, repeats=3)}
    options["shuffle_buffer"] = 4
    dataset = data.training_batches(source, SIZE, 8, cache=cache, **options)
    evaluation = data.evaluation_batches(
        source, EvalTransform(SIZE, None), 8, cache=cache
    )
    shutil.rmtree(root)
    assert len(batches(dataset, 9)) == 9
    assert numbers(np.concatenate([x for x, _ in evaluation])) == [*range(30)]


@pytest.mark.parametrize("kind", ["source", "stream"])
def test_a_cache_in_memory_changes_no_batch(kind, request):
    source = request.getfixturevalue(kind)
    options = {"augmentation": MIXING, "shuffle_buffer": 7}
    seen = [
        batches(data.training_batches(source, SIZE, 8, cache=cache, **options), 7)
        for cache in (False, True)
    ]
    assert_equal(*seen)


def test_two_sources_do_not_share_a_cache_file(tmp_path):
    root = write_folder(write_folder(tmp_path / "photos"), split="test", count=9)
    for split, count in (("train", 30), ("test", 9), ("train", 30)):
        source = data.open_source(root, split)
        dataset = data.evaluation_batches(
            source, EvalTransform(SIZE, None), 8, cache=str(tmp_path / "cache")
        )
        assert sum(len(images) for images, _ in dataset) == count


def test_processes_share_a_cache_path_without_sharing_its_files(source, tmp_path):
    cache = str(tmp_path / "cache")
    transform = EvalTransform(SIZE, None)
    seen = []
    for size, shard in ((8, (0, 2)), (8, (1, 2)), (2, (0, 2)), (8, (0, 1))):
        options = {"cache": cache, "shard": shard}
        batches(data.training_batches(source, SIZE, size, **options), 1)
        dataset = data.evaluation_batches(source, transform, size, **options)
        seen.append(numbers(np.concatenate([images for images, _ in dataset])))
    assert sorted(seen[0] + seen[1]) == seen[3] == [*range(30)]
    assert seen[2] == [*range(0, 30, 2)]


def test_the_program_is_told_that_training_batches_never_end(source):
    dataset = data.training_batches(source, SIZE, 8)
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY


def test_fit_resumes_to_the_same_weights(source):
    def train(model, epochs, initial_epoch=0):
        model.fit(
            data.training_batches(source, SIZE, 8, initial_epoch=initial_epoch),
            steps_per_epoch=data.steps_per_epoch(source, 8),
            epochs=epochs,
            initial_epoch=initial_epoch,
            verbose=0,
        )

    def build():
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((*SIZE, 3)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(16, "relu"),
                keras.layers.Dense(3),
            ]
        )
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1.0), loss)
        return model

    whole, resumed = build(), build()
    train(whole, 4)
    train(resumed, 2)
    train(resumed, 4, initial_epoch=2)
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# Evaluation


@pytest.mark.parametrize("kind", ["source", "stream"])
def test_evaluation_has_every_image_once_in_order(kind, request):
    source = request.getfixturevalue(kind)
    dataset = data.evaluation_batches(source, EvalTransform(SIZE, None), 8)
    seen = list(dataset.as_numpy_iterator())
    assert [len(images) for images, _ in seen] == [8, 8, 8, 6]
    assert sum((numbers(images) for images, _ in seen), []) == [*range(30)]
    labels = np.concatenate([labels for _, labels in seen])
    np.testing.assert_array_equal(labels, np.eye(3, dtype="f4")[np.arange(30) // 10])
    assert len(dataset) == 4


@pytest.mark.parametrize("kind", ["source", "stream"])
def test_each_process_evaluates_its_share_of_every_batch(kind, request):
    source = request.getfixturevalue(kind)
    transform = EvalTransform(SIZE, None)
    shares = [
        data.evaluation_batches(source, transform, 8, shard=(i, 4)) for i in range(4)
    ]
    seen = [[numbers(images) for images, _ in share] for share in shares]
    assert seen[1] == [[2, 3], [10, 11], [18, 19], [25]]
    assert [sum(parts, []) for parts in zip(*seen, strict=True)] == [
        [*range(0, 8)],
        [*range(8, 16)],
        [*range(16, 24)],
        # 28 and 29 cannot be split by four.
        [24, 25, 26, 27],
    ]


@pytest.mark.parametrize("transform", [EvalTransform((32, 48), 0.8), "imagenet_384"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_evaluation_images_are_within_2_levels_of_preprocess_input(
    transform, suffix, tmp_path
):
    skimage_data = pytest.importorskip("skimage.data")
    photos = {"cat": skimage_data.chelsea(), "rocket": skimage_data.rocket()}
    for name, photo in photos.items():
        path = tmp_path / "test" / name / f"x.{suffix}"
        path.parent.mkdir(parents=True)
        Image.fromarray(photo).save(path)
    source = data.open_source(tmp_path, "validation")
    ((images, _),) = data.evaluation_batches(source, transform, 2).as_numpy_iterator()
    paths = [tmp_path / "test" / name / f"x.{suffix}" for name in source.class_names]
    assert np.abs(images - preprocess_input(paths, transform)).max() <= 2


# Images


MODES = {
    "gray.jpg": ("L", {}),
    "cmyk.jpg": ("CMYK", {}),
    "gray.png": ("L", {}),
    "alpha.png": ("RGBA", {}),
    "palette.png": ("P", {}),
    "colour.bmp": ("RGB", {}),
    "still.gif": ("P", {}),
    "moving.gif": (
        "RGB",
        {"save_all": True, "append_images": [Image.new("RGB", (14, 11), "red")]},
    ),
}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Images of one shade of grey, in every file format and mode."""
    root = tmp_path_factory.mktemp("mixed")
    for label in "ab":
        for name, (mode, options) in MODES.items():
            path = root / "train" / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (14, 11), (90, 90, 90))
            image = image.quantize(4) if mode == "P" else image.convert(mode)
            image.save(path, **options)
    return data.open_source(root, "train")


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_kind_come_with_the_same_channels(mixed, channels):
    assert (mixed.count, mixed.corrupt) == (2 * len(MODES), ())
    transform = EvalTransform(SIZE, None)
    for dataset in (
        data.training_batches(mixed, SIZE, 16, channels=channels),
        data.evaluation_batches(mixed, transform, 16, channels=channels),
    ):
        ((images, _),) = batches(dataset, 1)
        assert images.shape == (16, *SIZE, channels)
        assert np.abs(images - 90).max() <= 2


def test_gray_images_are_those_of_pil(tmp_path):
    photo = pytest.importorskip("skimage.data").chelsea()
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(photo).save(tmp_path / "train" / name / "x.png")
    source = data.open_source(tmp_path, "train")
    transform = EvalTransform(photo.shape[:2], None)
    dataset = data.evaluation_batches(source, transform, 1, channels=1)
    ((image, _),) = batches(dataset, 1)
    expected = np.asarray(Image.fromarray(photo).convert("L"), "float32")
    assert np.abs(image[0, ..., 0] - expected).max() <= 1


# Errors


def test_a_batch_that_the_images_do_not_fill_is_refused(source):
    for call in (data.steps_per_epoch, lambda s, b: data.training_batches(s, SIZE, b)):
        with pytest.raises(ValueError, match="30 images do not fill one batch.*31"):
            call(source, 31)


@pytest.mark.parametrize("shard", [(0, 3), (2, 2), (-1, 2), (0, 0)])
def test_processes_that_cannot_split_the_batch_are_refused(source, shard):
    with pytest.raises(ValueError, match="shard"):
        data.training_batches(source, SIZE, 8, shard=shard)
    with pytest.raises(ValueError, match="shard"):
        data.evaluation_batches(source, EvalTransform(SIZE, None), 8, shard=shard)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size", 224),
        ("image_size", (0, 224)),
        ("batch_size", 0),
        ("channels", 4),
        ("seed", -1),
        ("seed", 2**31),
        ("initial_epoch", -1),
        ("shuffle_buffer", 0),
    ],
)
def test_arguments_out_of_range_are_named(source, name, value):
    arguments = {"source": source, "image_size": SIZE, "batch_size": 8, name: value}
    with pytest.raises(ValueError, match=f"`{name}`|`height`"):
        data.training_batches(**arguments)


def test_a_label_out_of_range_stops_the_training(source):
    wrong = dataclasses.replace(source, class_names=("cat", "dog"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not in 0-1"):
        batches(data.training_batches(wrong, SIZE, 30), 1)


def test_a_model_for_other_images_is_refused(source):
    from keras_cvt import CvT, CvTConfig, StageConfig

    stage = StageConfig(8, 1, 1, 3, 2, 1, cls_token=True)
    config = CvTConfig(stages=(stage,))
    model = CvT(config, classes=3, input_shape=(32, 32, 3), weights=None)
    assert len(data.evaluation_batches(source, model, 8)) == 4
    with pytest.raises(ValueError, match=r"make \(32, 32, 1\)"):
        data.evaluation_batches(source, model, 8, channels=1)
    model.eval_transform = EvalTransform((48, 32), None)
    with pytest.raises(ValueError, match=r"takes images of \(32, 32, 3\)"):
        data.evaluation_batches(source, model, 8)


@pytest.mark.parametrize("transform", ["no_such_tag", None, 224])
def test_an_argument_without_an_evaluation_transform_is_refused(source, transform):
    with pytest.raises((ValueError, TypeError), match="Received"):
        data.evaluation_batches(source, transform, 8)
