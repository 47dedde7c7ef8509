"""The command `embed`."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from command_line import run
from image_folders import write_image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt.features import feature_extractor


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"), classes=3)


def saved(folder, **arguments):
    config = CvTConfig((StageConfig(8, 1, 1, 7, 4, 2, cls_token=True),))
    model = keras_cvt.CvT(config, **arguments)
    model.eval_transform = keras_cvt.preprocessing.EvalTransform((16, 16), None)
    model.save(folder / "own.keras")
    return folder / "own.keras"


@pytest.fixture
def classes(tmp_path):
    """A folder of classes in which images of several formats and depths are."""
    for seed, name in enumerate(("10/a.png", "2/b.jpg", "2/sub/c.png", "2/.d.png")):
        write_image(tmp_path / "classes" / name, seed)
    return tmp_path / "classes"


def embed(model_file, *images, out, extra=()):
    status, printed, errors = run(
        "embed", *images, out, "--model", model_file, "--batch-size", 2, *extra
    )
    if not out.exists():
        return status, printed, errors, None
    with np.load(out, allow_pickle=False) as file:
        return status, printed, errors, dict(file)


def test_a_folder_of_classes_is_embedded_with_its_labels(model_file, classes, tmp_path):
    out = tmp_path / "out.npz"
    status, printed, errors, arrays = embed(model_file, classes, out=out)
    assert status == 0 and errors == ""
    assert "8 features of each of 3 images of 2 classes" in printed
    # Classes that are numbers are sorted as such; hidden files are left out.
    names = ["2/b.jpg", "2/sub/c.png", "10/a.png"]
    assert arrays["paths"].tolist() == [f"classes/{name}" for name in names]
    assert arrays["class_names"].tolist() == ["2", "10"]
    assert arrays["labels"].tolist() == [0, 0, 1]
    model = keras.models.load_model(model_file)
    images = keras_cvt.preprocess_input([classes / name for name in names], model)
    expected = feature_extractor(model).predict(images, verbose=0)
    assert arrays["features"].dtype == "float32"
    np.testing.assert_allclose(arrays["features"], expected, atol=1e-5)
    metadata = json.loads(arrays["metadata"].item())
    assert metadata["weights"] == "own.keras" and metadata["image_size"] == [16, 16]


def test_files_and_several_folders_have_no_classes(model_file, classes, tmp_path):
    images = classes / "10" / "a.png", classes / "2"
    status, printed, _, arrays = embed(model_file, *images, out=tmp_path / "out.npz")
    assert status == 0 and "of each of 3 images\n" in printed
    assert sorted(arrays) == ["features", "metadata", "paths"]


@pytest.mark.parametrize("name", ["a.png", "test/a/1.png"])
def test_a_folder_of_images_or_splits_has_no_classes(model_file, tmp_path, name):
    write_image(tmp_path / "photos" / name)
    write_image(tmp_path / "photos" / "train" / "a" / "2.png", 1)
    arrays = embed(model_file, tmp_path / "photos", out=tmp_path / "out.npz")[-1]
    assert len(arrays["features"]) == 2 and "labels" not in arrays


def test_a_class_without_images_leaves_out_the_labels(model_file, classes, tmp_path):
    (classes / "empty").mkdir()
    out = tmp_path / "out.npz"
    status, _, errors, arrays = embed(model_file, classes, out=out)
    assert status == 0 and "no labels are saved" in errors and "empty" in errors
    assert len(arrays["features"]) == 3 and "labels" not in arrays


def test_an_unreadable_image_is_skipped_and_named(model_file, classes, tmp_path):
    (classes / "2" / "b.jpg").write_bytes(b"no image")
    out = tmp_path / "out.npz"
    status, _, errors, arrays = embed(model_file, classes, out=out)
    assert status == 1 and "skipped" in errors and "b.jpg" in errors
    assert arrays["labels"].tolist() == [0, 1]
    assert arrays["paths"].tolist() == ["classes/2/sub/c.png", "classes/10/a.png"]


@pytest.mark.parametrize("name", ["out.npy", "out", "folder.npz"])
def test_another_suffix_is_refused_before_any_work(tmp_path, name):
    (tmp_path / "folder.npz").mkdir()
    status, _, errors = run("embed", "missing", tmp_path / name, "--model", "missing")
    assert status == 1 and "path of an .npz file to write" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npz"]


def test_a_failure_keeps_the_file_that_was_there(model_file, classes, tmp_path):
    out = tmp_path / "out.npz"
    out.write_bytes(b"before")
    (tmp_path / "none").mkdir()
    write_image(tmp_path / "bad" / "a.png")
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    for images, message in (
        (tmp_path / "none", "Expected a folder with images"),
        (tmp_path / "bad", "Expected images that can be read"),
        (tmp_path / "missing.png", "Expected images that can be read"),
    ):
        status, _, errors = run("embed", images, out, "--model", model_file)
        assert status == 1 and message in errors
        assert out.read_bytes() == b"before"


def test_a_model_that_takes_no_photos_is_refused(classes, tmp_path):
    model = saved(tmp_path, include_preprocessing=False)
    status, _, errors, arrays = embed(model, classes, out=tmp_path / "out.npz")
    assert status == 1 and "normalised" in errors and arrays is None


def test_a_backbone_is_embedded(classes, tmp_path):
    model = saved(tmp_path, include_top=False)
    status, _, _, arrays = embed(model, classes, out=tmp_path / "out.npz")
    assert status == 0 and arrays["features"].shape == (3, 8)


def test_a_keras_file_takes_no_other_weights(model_file, classes, tmp_path):
    extra = ["--weights", "imagenet"]
    out = tmp_path / "out.npz"
    status, _, errors, _ = embed(model_file, classes, out=out, extra=extra)
    assert status == 1 and "leave out --weights" in errors


def test_json_says_what_was_written(model_file, classes, tmp_path):
    out = tmp_path / "out.npz"
    status, printed, _, arrays = embed(model_file, classes, out=out, extra=["--json"])
    written = json.loads(arrays["metadata"].item())
    summary = {"images": 3, "channels": 8, "classes": 2}
    assert status == 0 and json.loads(printed) == {**summary, **written}


def test_the_help_does_not_import_keras():
    program = (
        "import sys, _keras_cvt_command\n"
        "try:\n"
        "    _keras_cvt_command.main()\n"
        "finally:\n"
        "    print('keras' in sys.modules, 'numpy' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, "embed", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "FEATURES.npz" in result.stdout
    assert result.stdout.splitlines()[-1] == "False False"
