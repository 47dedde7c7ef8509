"""The example `similar_images.py` does what it says."""

import re
import sys

import command_line as cli
import keras
import numpy as np
import pytest
from example_program import run
from image_folders import write_image
from PIL import Image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt.features import embed_files

PROGRAM = "similar_images.py"


def save_model(path, seed=0):
    keras.utils.set_random_seed(seed)
    config = CvTConfig((StageConfig(8, 1, 1, 7, 4, 2, cls_token=True),))
    model = keras_cvt.CvT(config, classes=3)
    model.eval_transform = keras_cvt.preprocessing.EvalTransform((16, 16), None)
    model.save(path)
    return model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A model, a folder of images, and a copy of one of them as a query."""
    root = tmp_path_factory.mktemp("similar")
    model = save_model(root / "own.keras")
    for i in range(6):
        write_image(root / "photos" / f"{i}.png", seed=i)
    (root / "query.png").write_bytes((root / "photos" / "4.png").read_bytes())
    return root, model


def similarities(text):
    rows = re.findall(r"^  (-?\d\.\d{3})  .*?(\d)\.png$", text, re.M)
    return [(float(value), int(name)) for value, name in rows]


def test_the_nearest_images_come_first_with_their_cosines(photos, tmp_path):
    root, model = photos
    picture = tmp_path / "similar.png"
    common = ["--model", root / "own.keras", "--output", picture, "--top", 3]
    query = root / "query.png"
    status, printed, errors = run(PROGRAM, query, "--images", root / "photos", *common)
    assert status == 0, errors
    found = similarities(printed)
    paths = [query, *(root / "photos" / f"{i}.png" for i in range(6))]
    features = embed_files(model, paths)[0].features
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    expected = features[1:] @ features[0]
    assert [name for _, name in found] == np.argsort(-expected)[:3].tolist()
    assert found[0] == (1.0, 4)
    np.testing.assert_allclose([s for s, _ in found], np.sort(expected)[::-1][:3], 1e-3)
    assert Image.open(picture).format == "PNG"


def test_saved_features_give_the_same_and_need_their_model(photos, tmp_path):
    root, _ = photos
    features = tmp_path / "features.npz"
    own = ["--model", root / "own.keras"]
    assert cli.run("embed", root / "photos", features, *own)[0] == 0
    query = [root / "photos" / "0.png", "--output", tmp_path / "similar.png"]
    found, again = (
        similarities(run(PROGRAM, *query, *own, "--images", images)[1])
        for images in (root / "photos", features)
    )
    # A query is not its own neighbour.
    assert len(found) == 5 and 0 not in [name for _, name in found]
    assert found == again
    (tmp_path / "other").mkdir()
    save_model(tmp_path / "other" / "own.keras", seed=1)
    other = ["--model", tmp_path / "other" / "own.keras"]
    status, _, errors = run(PROGRAM, *query, *other, "--images", features)
    assert status == 1 and "differ in weights_sha256" in errors


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Bright and dark images, which any network tells apart."""
    root = tmp_path_factory.mktemp("labelled")
    for split, count in (("train", 6), ("test", 3)):
        for name, level in (("bright", 200), ("dark", 40)):
            for i in range(count):
                path = root / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (level + 3 * i,) * 3).save(path)
    return root


def test_the_probe_classifies_the_test_images(photos, labelled):
    model = photos[0] / "own.keras"
    status, printed, _ = run(PROGRAM, "--probe", "--images", labelled, "--model", model)
    assert status == 0
    assert "12 training and 6 test images of 2 classes, 8 features" in printed
    assert "Linear probe: 100.00% of the test images" in printed
    # All 12 images vote, six of each class: a tie, which the first class wins.
    assert "kNN (k=12, cosine): 50.00% of the test images" in printed


def test_the_probe_names_classes_that_it_cannot_know(photos, tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "test/c/1.png"):
        write_image(tmp_path / name)
    model = photos[0] / "own.keras"
    status, _, errors = run(PROGRAM, "--probe", "--images", tmp_path, "--model", model)
    assert status == 1 and "Received: a, b and c" in errors


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [("sklearn", "--probe", "demo"), ("matplotlib.figure", "query.png", "train")],
)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path, monkeypatch, module, call, extra
):
    monkeypatch.setitem(sys.modules, module, None)
    images = ["--images", tmp_path, "--model", "missing.keras"]
    status, _, errors = run(PROGRAM, call, *images)
    assert status == 1 and f"keras_cvt[{extra}]" in errors


def test_wrong_calls_are_messages(photos, tmp_path):
    root, _ = photos
    model = ["--model", root / "own.keras"]
    (tmp_path / "text.npz").write_text("no features")
    for arguments, message in (
        ([root / "query.png", "--probe", "--images", root], "either query images or"),
        (["--images", root], "either query images or --probe"),
        (["--probe", "--images", "features.npz"], "Expected --images FOLDER"),
        (["--probe", "--images", root, *model], "Expected a folder 'train'"),
        (["q.png", "--images", root, "--output", "a.jpg"], "--output FILE.png"),
        (["q.png", "--images", root, *model], "Expected images that can be read"),
        (
            [root / "query.png", "--images", tmp_path / "text.npz", *model],
            "`keras-cvt embed` wrote",
        ),
    ):
        status, _, errors = run(PROGRAM, *arguments)
        assert status == 1 and message in errors
