"""Where labelled images come from, and what is wrong with them."""

import pytest
from image_folders import write_folder, write_image

from keras_cvt.data import open_source

tf = pytest.importorskip("tensorflow")


def labels(source):
    return [int(label) for _, label in source.examples.as_numpy_iterator()]


def test_a_folders_images_come_in_order_with_their_labels(tmp_path):
    source = open_source(write_folder(tmp_path), "train")
    assert source.class_names == ("cat", "dog")
    assert (source.count, labels(source)) == (12, [0] * 6 + [1] * 6)
    first, _ = next(source.examples.as_numpy_iterator())
    assert first == (tmp_path / "train" / "cat" / "0.jpg").read_bytes()


@pytest.mark.parametrize("name", ["validation", "val", "test"])
def test_validation_images_may_be_called_val_or_test(tmp_path, name):
    assert open_source(write_folder(tmp_path, [name]), "validation").count == 12


def test_class_folders_that_are_numbers_are_sorted_by_number(tmp_path):
    # ImageNet-V2 is kept so; by name, "10" would come before "2".
    write_folder(tmp_path, ["test"], ["0", "2", "10"], count=1)
    assert open_source(tmp_path, "test").class_names == ("0", "2", "10")


def test_validation_folders_are_matched_to_the_training_classes_by_name(tmp_path):
    write_folder(tmp_path, ["train"], ["ant", "bee", "cat"], count=1)
    write_folder(tmp_path, ["test"], ["ant", "cat"], count=1)
    names = open_source(tmp_path, "train").class_names
    assert labels(open_source(tmp_path, "test", class_names=names)) == [0, 2]


def test_hidden_files_are_no_images(tmp_path):
    write_folder(tmp_path, ["train"])
    (tmp_path / "train" / "cat" / "._0.jpg").write_bytes(b"resource fork")
    (tmp_path / "train" / ".DS_Store").write_bytes(b"")
    assert open_source(tmp_path, "train").count == 12


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_corrupt_images_are_left_out_counted_and_named(tmp_path, content, caplog):
    write_folder(tmp_path, ["train"])
    bad = tmp_path / "train" / "cat" / "2.jpg"
    # None: the second half of the file is missing.
    size = bad.stat().st_size // 2
    bad.write_bytes(bad.read_bytes()[:size] if content is None else content)
    source = open_source(tmp_path, "train")
    assert source.corrupt == (str(bad),)
    assert (source.count, labels(source)) == (11, [0] * 5 + [1] * 6)
    assert "1 of 12 images" in caplog.text and str(bad) in caplog.text


def test_a_class_without_a_readable_image_is_an_error(tmp_path):
    write_folder(tmp_path, ["train"], count=1)
    (tmp_path / "train" / "cat" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no readable image of cat"):
        open_source(tmp_path, "train")


def test_without_the_check_nothing_is_left_out(tmp_path):
    write_folder(tmp_path, ["train"])
    (tmp_path / "train" / "cat" / "2.jpg").write_bytes(b"no image")
    assert open_source(tmp_path, "train", check_images=False).count == 12


def empty_class(root):
    write_folder(root, ["train"])
    (root / "train" / "bird").mkdir()


def other_files(root):
    write_folder(root, ["train"])
    write_image(root / "train" / "bird" / "0.webp")


def one_class(root):
    write_folder(root, ["train"], ["cat"])


def no_classes(root):
    write_image(root / "train" / "0.jpg")


def no_split(root):
    write_folder(root, ["images"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty_class, "bird holds no image .*Received: nothing"),
        (other_files, r"Received: \.webp"),
        (one_class, "at least two classes"),
        (no_classes, "Expected class folders"),
        (no_split, "Expected a folder train .*Received: images"),
    ],
)
def test_a_folder_that_is_none_of_images_by_class_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path, "train")


def test_a_class_that_training_did_not_have_is_refused(tmp_path):
    write_folder(tmp_path, ["test"], ["ant", "bee"], count=1)
    with pytest.raises(ValueError, match="do not have: bee"):
        open_source(tmp_path, "test", class_names=("ant", "cat"))


def test_what_is_neither_folder_nor_data_set_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no_such_data_set"):
        open_source("no_such_data_set", "train", data_dir=tmp_path)


# TensorFlow Datasets


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set prepared on disk by TensorFlow Datasets, two images corrupt."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = write_folder(tmp_path_factory.mktemp("images"), ["train", "test"])
    files = sorted(root.rglob("train/*/*.jpg"))

    def examples(split):
        for path in sorted((root / split).rglob("*.*")):
            data = path.read_bytes()
            label = ["cat", "dog"].index(path.parent.name)
            data = data[:40] if path in files[:2] else data
            yield str(path), {"image": data, "label": label}

    builder = tfds.dataset_builders.AdhocBuilder(
        name="animals",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
        ),
        split_datasets={split: list(examples(split)) for split in ("train", "test")},
        data_dir=tmp_path_factory.mktemp("tfds"),
    )
    builder.download_and_prepare()
    return builder


def test_a_prepared_data_set_is_read_without_its_corrupt_images(prepared, caplog):
    source = open_source(prepared.data_path, "train")
    assert source.class_names == ("cat", "dog")
    assert (source.count, len(source.corrupt)) == (10, 2)
    assert sorted(labels(source)) == [0] * 4 + [1] * 6
    assert "2 of 12 images" in caplog.text


def test_a_data_sets_test_split_stands_for_its_validation_split(prepared):
    source = open_source(prepared.data_path, "validation")
    images = [image for image, _ in source.examples.as_numpy_iterator()]
    assert source.count == len(images) == 12
    assert all(tf.io.decode_image(image).shape == (16, 20, 3) for image in images)


def test_a_data_sets_order_never_changes(prepared):
    source = open_source(prepared.data_path, "train")
    first, second = (
        [image for image, _ in source.examples.as_numpy_iterator()] for _ in range(2)
    )
    assert first == second


def test_a_split_that_a_data_set_does_not_have_is_refused(prepared):
    with pytest.raises(ValueError, match=r"split extra .*Received: \['test', 'train'"):
        open_source(prepared.data_path, "extra")


def test_a_data_set_of_other_classes_is_refused(prepared):
    with pytest.raises(ValueError, match="instead of ant, cat"):
        open_source(prepared.data_path, "train", class_names=("ant", "cat"))
