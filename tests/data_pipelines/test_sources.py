"""Folders and TensorFlow Datasets as sources; the tests write the files."""

import io
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_cvt import data

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")


def encoded(value, suffix="png", mode="RGB", size=(24, 16), **options):
    """Return an image file's bytes: noise around a value."""
    noise = np.random.default_rng(value).integers(-20, 20, (*size, 3))
    image = Image.fromarray((value + noise).clip(0, 255).astype("uint8"))
    file = io.BytesIO()
    suffix = {"jpg": "jpeg"}.get(suffix, suffix)
    image.convert(mode).save(file, suffix, **options)
    return file.getvalue()


def write(root, files):
    """Write {path: bytes} below a folder."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def images_and_labels(source):
    images, labels = zip(*source.examples.as_numpy_iterator(), strict=True)
    assert len(images) == source.count
    return list(images), [int(label) for label in labels]


@pytest.fixture
def folder(tmp_path):
    return write(
        tmp_path / "photos",
        {
            f"{split}/{name}/{i}.png": encoded(value + i)
            for split in ("train", "test")
            for value, name in ((10, "cat"), (90, "dog"), (170, "emu"))
            for i in range(3)
        },
    )


class Shades(tfds.core.GeneratorBasedBuilder):
    """Small labelled images; one label and one image are wrong on demand."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=name)
        for name in ("good", "corrupt", "unlabelled", "masks")
    ]

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["night", "dusk", "day"]),
        }
        if self.builder_config.name == "masks":
            features["mask"] = features.pop("label")
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(12),
            "test": self._generate_examples(6),
        }

    def _generate_examples(self, count):
        kind = self.builder_config.name
        for i in range(count):
            image = encoded(80 * (i % 3) + 20 + i)
            if kind == "corrupt" and i == 4:
                image = image[: len(image) // 2]
            label = -1 if kind == "unlabelled" and i == 2 else i % 3
            name = "mask" if kind == "masks" else "label"
            yield i, {"image": io.BytesIO(image), name: label}


@pytest.fixture(scope="module")
def shades(tmp_path_factory):
    """Return the data folder that holds the prepared data sets."""
    root = tmp_path_factory.mktemp("tensorflow_datasets")
    for config in Shades.BUILDER_CONFIGS:
        Shades(config=config.name, data_dir=root).download_and_prepare()
    return root


# Folders


def test_a_folder_gives_its_files_with_their_classes_in_order(folder):
    source = data.open_source(folder, "train")
    assert source.class_names == ("cat", "dog", "emu")
    assert (source.count, source.corrupt) == (9, ())
    images, labels = images_and_labels(source)
    assert labels == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert images[4] == (folder / "train/dog/1.png").read_bytes()


def test_folders_read_as_tensorflow_datasets_own_image_folder_reads_them(folder):
    builder = tfds.folder_dataset.ImageFolder(folder)
    source = data.open_source(folder, "train")
    assert list(source.class_names) == builder.info.features["label"].names
    expected = builder.as_dataset(split="train", as_supervised=True)
    ours = {
        (tf.io.decode_image(image).numpy().tobytes(), label)
        for image, label in source.examples.as_numpy_iterator()
    }
    assert ours == {(i.tobytes(), int(k)) for i, k in expected.as_numpy_iterator()}


@pytest.mark.parametrize("name", ["validation", "val", "valid", "test"])
def test_validation_images_may_be_in_any_of_these_folders(folder, name):
    (folder / "test").rename(folder / name)
    assert data.open_source(folder, "validation").count == 9


def test_any_split_folder_that_exists_can_be_named(folder):
    (folder / "train").rename(folder / "holdout")
    assert data.open_source(folder, "holdout").count == 9


def test_a_missing_split_is_reported_with_what_is_there(folder):
    shutil.rmtree(folder / "test")
    message = "'validation' or 'val' or 'valid' or 'test' in .*photos. Received: train"
    with pytest.raises(ValueError, match=message):
        data.open_source(folder, "validation")


def test_class_folders_that_are_numbers_are_sorted_as_numbers(tmp_path):
    names = [str(i) for i in range(12)]
    write(tmp_path, {f"train/{n}/x.png": encoded(int(n)) for n in names})
    source = data.open_source(tmp_path, "train")
    assert source.class_names == tuple(names)
    assert images_and_labels(source)[0][2] == encoded(2)


def test_class_folders_are_sorted_as_text_unless_all_are_numbers(tmp_path):
    files = {f"train/{n}/x.png": encoded(9) for n in ("10", "9", "a", "B")}
    source = data.open_source(write(tmp_path, files), "train")
    assert source.class_names == ("10", "9", "B", "a")


def test_validation_folders_get_the_labels_of_the_training_classes(folder):
    shutil.rmtree(folder / "test/cat")
    names = ("emu", "cat", "dog")
    source = data.open_source(folder, "validation", class_names=names)
    assert source.class_names == names
    images, labels = images_and_labels(source)
    assert labels == [2, 2, 2, 0, 0, 0]
    assert images[0] == (folder / "test/dog/0.png").read_bytes()


def test_a_folder_that_is_not_a_training_class_is_named(folder):
    with pytest.raises(ValueError, match="not in `class_names`: dog, emu"):
        data.open_source(folder, "test", class_names=("cat", "yak"))


@pytest.mark.parametrize(
    ("file", "content"),
    [(None, "no file"), ("a.svg", "1 .svg"), (".DS_Store", "no file")],
)
def test_a_class_without_images_is_named_with_what_it_holds(folder, file, content):
    (folder / "train/yak").mkdir()
    if file:
        (folder / "train/yak" / file).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"train/yak holds no image.*{content}"):
        data.open_source(folder, "train")


def test_files_that_are_not_images_are_left_out_and_reported(folder, caplog):
    write(folder, {"train/cat/a.svg": b"x", "train/dog/notes.txt": b"x"})
    assert data.open_source(folder, "train").count == 9
    assert "2 files" in caplog.text and ".svg" in caplog.text


def test_hidden_files_and_folders_are_ignored_without_a_message(folder, caplog):
    hidden = ("cat/.DS_Store", "cat/._0.png", "cat/.thumbs/0.png", ".git/0.png")
    write(folder, {f"train/{name}": b"x" for name in hidden})
    assert data.open_source(folder, "train").count == 9
    assert not caplog.records


def test_images_in_folders_below_a_class_belong_to_it(folder):
    write(folder, {"train/dog/more/deep/9.JPEG": encoded(90, "jpg")})
    assert images_and_labels(data.open_source(folder, "train"))[1].count(1) == 4


def test_one_class_is_too_few(tmp_path):
    write(tmp_path, {"train/cat/1.png": encoded(9)})
    with pytest.raises(ValueError, match="at least two classes.*cat"):
        data.open_source(tmp_path, "train")


def test_images_without_class_folders_are_refused(tmp_path):
    write(tmp_path, {"train/1.png": encoded(9)})
    with pytest.raises(ValueError, match="for each class in .*train"):
        data.open_source(tmp_path, "train")


@pytest.mark.parametrize("name", ["no/such folder", "nosuchdata", "cifar10/nope"])
def test_a_source_that_is_neither_folder_nor_data_set_is_refused(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"'{name}' is neither a folder nor"):
        data.open_source(name, "train", data_dir=tmp_path)


def test_a_file_instead_of_a_folder_is_refused(folder):
    with pytest.raises(ValueError, match="not a file"):
        data.open_source(folder / "train/cat/0.png", "train")


# Corrupt images

CORRUPT = {
    "empty.png": b"",
    "text.jpg": b"not an image",
    "half.jpg": encoded(50, "jpg")[:-200],
    "short.jpg": encoded(50, "jpg")[:-1],
    "progressive.jpg": encoded(50, "jpg", progressive=True)[:-9],
    "half.png": encoded(50)[:-300],
    "endless.png": encoded(50)[:-12],
    "half.bmp": encoded(50, "bmp")[:-300],
    "half.gif": encoded(50, "gif")[:-300],
    "half.tif": encoded(50, "tiff")[:-300],
}


def test_corrupt_images_are_left_out_and_named(folder, caplog):
    write(folder, {f"train/dog/{name}": image for name, image in CORRUPT.items()})
    source = data.open_source(folder, "train")
    images, labels = images_and_labels(source)
    assert labels == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert images[3] == (folder / "train/dog/0.png").read_bytes()
    names = {str(folder / "train/dog" / name) for name in CORRUPT}
    assert set(source.corrupt) == names and len(source.corrupt) == len(names)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "10 of 19 images" in record.message and "and 5 more" in record.message


def test_a_jpeg_with_the_suffix_png_can_be_read(folder):
    write(folder, {"train/cat/new.png": encoded(99, "jpg")})
    assert data.open_source(folder, "train").count == 10


def test_a_class_without_any_readable_image_is_an_error(folder):
    write(folder, {f"train/dog/{i}.png": b"x" for i in range(3)})
    with pytest.raises(ValueError, match="no image of these classes.*: dog"):
        data.open_source(folder, "train")


def test_the_check_can_be_left_out(folder):
    write(folder, {"train/cat/0.png": b"x"})
    assert data.open_source(folder, "train", check_images=False).count == 9


# TensorFlow Datasets


def test_a_prepared_data_set_is_opened_by_its_directory(shades):
    source = data.open_source(shades / "shades/good/1.0.0", "train")
    assert source.class_names == ("night", "dusk", "day")
    images, labels = images_and_labels(source)
    expected = {(encoded(80 * (i % 3) + 20 + i), i % 3) for i in range(12)}
    assert set(zip(images, labels, strict=True)) == expected


def test_a_data_set_is_opened_by_its_name(shades):
    by_name = data.open_source("shades/good", "train", data_dir=shades)
    by_directory = data.open_source(shades / "shades/good/1.0.0", "train")
    assert images_and_labels(by_name) == images_and_labels(by_directory)


def test_a_data_set_is_prepared_if_necessary(tmp_path):
    source = data.open_source("shades/good:1.0.0", "test", data_dir=tmp_path)
    assert source.count == 6
    assert (tmp_path / "shades/good/1.0.0/dataset_info.json").is_file()


def test_without_download_a_data_set_must_be_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match="shades/good/1.0.0 is not prepared"):
        data.open_source("shades/good", "train", data_dir=tmp_path, download=False)


def test_a_data_set_always_comes_in_the_same_order(shades):
    source = data.open_source(shades / "shades/good/1.0.0", "train")
    again = data.open_source(shades / "shades/good/1.0.0", "train")
    assert images_and_labels(source) == images_and_labels(source)
    assert images_and_labels(source) == images_and_labels(again)


def test_a_data_sets_test_split_stands_in_for_validation(shades):
    source = data.open_source(shades / "shades/good/1.0.0", "validation")
    assert source.count == 6


def test_a_slice_of_a_data_set_is_a_split(shades):
    root = shades / "shades/good/1.0.0"
    first = images_and_labels(data.open_source(root, "train[:75%]"))
    rest = images_and_labels(data.open_source(root, "train[75%:]"))
    whole = images_and_labels(data.open_source(root, "train"))
    assert (first[0] + rest[0], len(first[0])) == (whole[0], 9)


def test_a_missing_split_of_a_data_set_is_reported_with_the_existing_ones(shades):
    with pytest.raises(ValueError, match="'holdout'.*Received: test, train"):
        data.open_source(shades / "shades/good/1.0.0", "holdout")


def test_a_data_sets_labels_are_matched_to_other_classes_by_name(shades):
    root = shades / "shades/good/1.0.0"
    names = ("day", "noon", "night", "dusk")
    images, labels = images_and_labels(data.open_source(root, "train"))
    matched = data.open_source(root, "train", class_names=names)
    assert images_and_labels(matched) == (images, [[2, 3, 0][k] for k in labels])
    with pytest.raises(ValueError, match="not in `class_names`: dusk"):
        data.open_source(root, "train", class_names=("day", "night"))


def test_a_data_sets_corrupt_image_is_left_out_and_named(shades, caplog):
    root = shades / "shades/corrupt/1.0.0"
    unchecked = images_and_labels(data.open_source(root, "train", check_images=False))
    short = min(range(12), key=lambda i: len(unchecked[0][i]))
    source = data.open_source(root, "train")
    assert source.corrupt == (f"train[{short}]",)
    assert f"train[{short}]" in caplog.text
    images, labels = images_and_labels(source)
    for kept, before in zip((images, labels), unchecked, strict=True):
        assert kept == before[:short] + before[short + 1 :]


@pytest.mark.parametrize("class_names", [None, ("day", "night", "dusk")])
def test_a_label_out_of_range_is_an_error(shades, class_names):
    with pytest.raises(ValueError, match="1 labels are not in 0-2.*label -1"):
        data.open_source(
            shades / "shades/unlabelled/1.0.0", "train", class_names=class_names
        )


def test_a_data_set_without_labels_is_refused(shades):
    with pytest.raises(ValueError, match="Expected a feature 'label'"):
        data.open_source(shades / "shades/masks/1.0.0", "train")


def test_for_the_folder_above_a_data_set_the_error_names_the_data_set(shades):
    with pytest.raises(ValueError, match=r"pass .*shades/good/1\.0\.0"):
        data.open_source(shades / "shades/good", "train")


# Imports


def test_importing_the_package_imports_no_tensorflow():
    program = """
import sys, keras_cvt.data
assert not {"tensorflow", "tensorflow_datasets"} & {*sys.modules}
"""
    # Keras's own TensorFlow backend would import it.
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["tensorflow", "tensorflow_datasets"])
def test_a_missing_package_comes_with_the_command_that_installs_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    message = rf'needs {name}, .*`pip install "keras_cvt\[tensorflow\]"`'
    with pytest.raises(ImportError, match=message):
        data.open_source("cifar10", "train", download=False)
