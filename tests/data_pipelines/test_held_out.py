"""`validation_split`: validation images held out of the training images."""

import os
import unicodedata

import numpy as np
import pytest
from image_folders import write_folder, write_image
from test_sources import Shades, images_and_labels, tfds

from keras_cvt import data


class Trained(Shades):
    """Data sets without a split for validation."""

    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name) for name in ("shuffled", "sorted", "single")
    ]

    def _info(self):
        info = super()._info()
        return tfds.core.DatasetInfo(
            builder=self,
            features=info.features,
            disable_shuffling=self.builder_config.name == "sorted",
        )

    def _split_generators(self, dl_manager):
        count = 1 if self.builder_config.name == "single" else 12
        return {"train": self._generate_examples(count)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function from a name to the directory of a prepared data set."""
    root = tmp_path_factory.mktemp("tensorflow_datasets")

    def prepare(name):
        builder = Trained(config=name, data_dir=root)
        builder.download_and_prepare()
        return builder.data_dir

    return prepare


def both(source, share, **arguments):
    return [
        data.open_source(source, split, validation_split=share, **arguments)
        for split in ("train", "validation")
    ]


def paths(source, root):
    """Return the paths of a source's images below a folder, and its labels."""
    files, labels = zip(*source.files.as_numpy_iterator(), strict=True)
    assert len(files) == source.count
    below = [os.path.relpath(os.fsdecode(file), root) for file in files]
    return below, [int(label) for label in labels]


@pytest.fixture
def photos(tmp_path):
    """Return a folder of class folders, without folders of splits."""
    write_folder(tmp_path, splits=("photos",), classes=("cat", "dog", "emu"), count=10)
    return tmp_path / "photos"


@pytest.mark.parametrize("layout", ["class folders", "train"])
def test_a_share_of_each_class_is_held_out(photos, tmp_path, layout):
    root = photos
    if layout == "train":
        root = tmp_path / "data"
        root.mkdir()
        photos.rename(root / "train")
        photos = root / "train"
    training, held_out = both(root, 0.2)
    assert training.class_names == held_out.class_names == ("cat", "dog", "emu")
    kept, kept_labels = paths(training, photos)
    others, labels = paths(held_out, photos)
    assert kept_labels == [0] * 8 + [1] * 8 + [2] * 8
    assert labels == [0, 0, 1, 1, 2, 2]
    found = {os.fspath(path.relative_to(photos)) for path in photos.rglob("*.*")}
    assert set(kept).isdisjoint(others) and {*kept, *others} == found
    # In the order of a source that is not divided.
    assert kept == sorted(kept) and others == sorted(others)
    # Not the first or the last of each class.
    numbers = {os.path.splitext(os.path.basename(path))[0] for path in others}
    assert numbers - {"0", "1", "8", "9"}
    assert training.fingerprint() != held_out.fingerprint()
    assert (training.name, held_out.name) == (
        f"{photos} (train)",
        f"{photos} (validation)",
    )


def test_the_same_images_are_held_out_wherever_the_folder_lies(photos, tmp_path):
    before = [paths(source, photos) for source in both(photos, 0.3)]
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    photos.rename(moved)
    assert [paths(source, moved) for source in both(moved, 0.3)] == before
    names = ("emu", "cat", "dog")
    held_out = data.open_source(
        moved, "validation", validation_split=0.3, class_names=names
    )
    assert sorted(paths(held_out, moved)[0]) == sorted(before[1][0])
    assert held_out.class_names == names


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.5, 5), (0.99, 9)])
def test_each_class_has_images_on_both_sides(photos, share, count):
    training, held_out = both(photos, share)
    assert np.bincount(paths(held_out, photos)[1]).tolist() == [count] * 3
    assert training.count == 30 - 3 * count


@pytest.mark.parametrize("name", ["validation", "val", "valid", "test"])
def test_validation_images_of_its_own_are_taken_as_they_are(tmp_path, name):
    write_folder(tmp_path, splits=("train", name), count=4)
    training, held_out = both(tmp_path, 0.25)
    assert (training.count, held_out.count) == (8, 8)
    assert held_out.name == str(tmp_path / name)


def test_folders_that_look_like_splits_of_other_names_are_no_classes(tmp_path):
    write_folder(tmp_path, splits=("Training", "Testing"), count=2)
    with pytest.raises(ValueError, match="Testing, Training, each with .* cat, dog"):
        both(tmp_path, 0.2)
    # As the message says.
    (tmp_path / "train").mkdir()
    for name in ("Training", "Testing"):
        (tmp_path / name).rename(tmp_path / "train" / name)
    assert both(tmp_path, 0.25)[0].class_names == ("Testing", "Training")


@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_a_class_may_be_called_as_a_split(photos, name):
    (photos / "dog").rename(photos / name)
    training, held_out = both(photos, 0.2)
    assert training.class_names == tuple(sorted(("cat", "emu", name)))
    assert (training.count, held_out.count) == (24, 6)


def test_accents_may_be_stored_in_either_way(tmp_path):
    held_out = []
    for form in ("NFC", "NFD"):
        folder = tmp_path / form
        for i in range(20):
            name = unicodedata.normalize(
                form, f"{i} caf\N{LATIN SMALL LETTER E WITH ACUTE}"
            )
            for kind in ("a", "b"):
                write_image(folder / kind / f"{name}.png", i)
        found = paths(both(folder, 0.3)[1], folder)[0]
        held_out.append({unicodedata.normalize("NFC", path) for path in found})
    assert held_out[0] == held_out[1]


def test_a_class_of_one_image_is_named(photos):
    for path in sorted((photos / "dog").iterdir())[1:]:
        path.unlink()
    with pytest.raises(ValueError, match="two images in each class.*: 1 in .*dog"):
        both(photos, 0.2)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_folder_that_is_not_divided_says_how_to_divide_it(photos, split):
    with pytest.raises(ValueError, match="Received: cat, .*`validation_split=0.2`"):
        data.open_source(photos, split)


def test_a_data_set_says_how_to_divide_it(trained):
    with pytest.raises(ValueError, match="Received: train.*`validation_split=0.2`"):
        data.open_source(trained("shuffled"), "validation")


def test_another_error_has_no_hint(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(ValueError, match="Received: train, validation$"):
        data.open_source(tmp_path, "tain")


@pytest.mark.parametrize("share", [0, 1, -0.2, float("nan"), True, "0.2"])
def test_the_share_is_between_0_and_1(photos, share):
    with pytest.raises(ValueError, match="`validation_split` must be a number between"):
        data.open_source(photos, "train", validation_split=share)


def test_only_train_and_validation_can_be_asked_for(photos):
    with pytest.raises(ValueError, match="one of 'train', 'validation'.*'test'"):
        data.open_source(photos, "test", validation_split=0.2)


def test_the_last_images_of_a_data_set_are_held_out(trained):
    directory = trained("shuffled")
    whole = data.open_source(directory, "train")
    training, held_out = both(directory, 0.25)
    assert (training.count, held_out.count) == (9, 3)
    assert training.name.endswith("train[:9]") and held_out.name.endswith("train[9:]")
    parts = [images_and_labels(source) for source in (training, held_out)]
    images, labels = images_and_labels(whole)
    assert parts == [(images[:9], labels[:9]), (images[9:], labels[9:])]


def test_a_data_set_with_a_split_for_validation_is_taken_as_it_is(tmp_path):
    builder = Shades(config="good", data_dir=tmp_path)
    builder.download_and_prepare()
    training, held_out = both(builder.data_dir, 0.25)
    assert (training.count, held_out.count) == (12, 6)


@pytest.mark.parametrize(
    ("name", "received"), [("sorted", "in a given order"), ("single", "1 image")]
)
def test_a_data_set_that_cannot_be_divided_is_refused(trained, name, received):
    with pytest.raises(ValueError, match=f"two images in random order.*{received}"):
        both(trained(name), 0.25)
