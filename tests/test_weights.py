"""What comes with weights: how images are made, and which commit they are of."""

import hashlib
import json
import shutil

import golden
import hub_models
import numpy as np
import pytest
from hub_client import loopback
from loopback_hub import COMMIT

import keras_cvt
from keras_cvt import conversion, files, hub, zoo
from keras_cvt.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from keras_cvt.preprocessing import EvalTransform
from keras_cvt.weights import resolve

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
REPO = "me/tiny"
TRANSFORMS = [
    EvalTransform((96, 96), 0.9),
    EvalTransform((64, 96), None),
    # transformers has no word for these.
    EvalTransform((64, 96), 0.9),
    EvalTransform((448, 448), 0.95),
]


@pytest.fixture
def server(tmp_path, monkeypatch):
    with loopback(tmp_path, monkeypatch) as server:
        yield server


def build(weights):
    config = golden.config(golden.load("tiny_base")[1])
    return keras_cvt.CvT(config, weights=weights, classes=4)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_transform_of_a_saved_folder_comes_back(server, tmp_path, transform):
    """Also where another model's folder is written over."""
    model = hub_models.classifier()
    save_checkpoint(model, tmp_path / "saved", layout="transformers")
    model.eval_transform = transform
    save_checkpoint(model, tmp_path / "saved", layout="transformers")
    server.repos[REPO] = contents(tmp_path / "saved")
    saved = tmp_path / "saved"
    for name in (saved, saved / "model.safetensors", f"hf://{REPO}"):
        assert resolve(name).eval_transform == transform
    assert hub.load(REPO).eval_transform == transform


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_transform_of_a_pushed_folder_comes_back(tmp_path, transform):
    model = hub_models.classifier()
    model.eval_transform = transform
    hub.write_folder(model, tmp_path / "pushed", repo_id=REPO)
    assert resolve(tmp_path / "pushed").eval_transform == transform


def test_what_transformers_says_of_images_is_honoured(tmp_path):
    folder = shutil.copytree(CHECKPOINTS / "hf_pt", tmp_path / "theirs")
    assert build(folder).eval_transform == EvalTransform((64, 64), 0.875)
    processor = {"size": {"shortest_edge": 96}, "crop_pct": 0.95}
    files.write_json(folder / "preprocessor_config.json", processor)
    assert build(folder).eval_transform == EvalTransform((96, 96), 0.95)


def test_a_model_of_a_fixed_size_keeps_it(tmp_path):
    save_checkpoint(hub_models.classifier(), tmp_path / "saved", layout="transformers")
    config = golden.config(golden.load("tiny_base")[1])
    model = keras_cvt.CvT(
        config, weights=tmp_path / "saved", classes=4, input_shape=(32, 48, 3)
    )
    assert model.eval_transform == EvalTransform((32, 48), None)


def test_images_of_an_absurd_size_are_refused(tmp_path):
    folder = shutil.copytree(CHECKPOINTS / "hf_pt", tmp_path / "theirs")
    files.write_json(folder / "preprocessor_config.json", {"size": 10**9})
    with pytest.raises(CheckpointError, match="at most 8192 pixels"):
        build(folder)


def test_a_converted_folder_says_how_images_are_made(tmp_path):
    with pytest.warns(UserWarning, match="exact GELU"):
        conversion.convert(
            CHECKPOINTS / "official_zip.pth",
            tmp_path / "out",
            config=golden.config(golden.load("tiny_base")[1]),
        )
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 224}
    assert processor["crop_pct"] == 0.875


# The three ways to a repository's weights.
def first_weights(model):
    return np.array(model.get_layer("stage0").weights[0])


def into_a_model(name):
    model = hub_models.classifier()
    load_checkpoint(model, f"hf://{name}")
    return model


ROADS = {
    "weights": lambda name: build(f"hf://{name}"),
    "hub.load": lambda name: hub.load(*name.split("@")),
    "load_checkpoint": into_a_model,
}


@pytest.mark.parametrize("road", ROADS)
def test_a_revision_is_the_one_that_is_loaded(server, road):
    old, new = hub_models.classifier(), hub_models.classifier()
    new.set_weights([2 * w for w in new.get_weights()])
    commits = [hub.push(model, REPO).commit for model in (old, new)]
    for model, name in ((old, f"{REPO}@{commits[0]}"), (new, REPO)):
        np.testing.assert_array_equal(
            first_weights(ROADS[road](name)), first_weights(model)
        )


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A small network in the place of CvT-13's repository."""
    record = zoo.find("cvt13/imagenet")
    model = hub_models.classifier()
    monkeypatch.setitem(zoo.MODELS, record.model, model.cvt_config)
    save_checkpoint(model, tmp_path / "saved", layout="transformers")
    server.repos[record.repo] = contents(tmp_path / "saved")
    return record


@pytest.mark.parametrize("road", ROADS)
def test_of_published_weights_the_recorded_commit_is_loaded(
    server, published, road, monkeypatch
):
    """And a file of another hash than the recorded one is refused."""
    files_then = server.repos[published.repo]
    digest = hashlib.sha256(files_then["model.safetensors"]).hexdigest()
    files_now = {"model.safetensors": b"of a later commit"}
    server.history[published.repo] = [(COMMIT, files_then), ("f" * 40, files_now)]
    server.repos[published.repo] = files_now

    def record(digest):
        known = {"revision": COMMIT, "sha256": {"model.safetensors": digest}}
        monkeypatch.setattr(zoo, "_known_files", lambda: {published.repo: known})

    record("0" * 64)
    with pytest.raises(CheckpointError, match="0" * 64):
        ROADS[road](published.repo)
    record(digest)
    np.testing.assert_array_equal(
        first_weights(ROADS[road](published.repo)),
        first_weights(hub_models.classifier()),
    )


@pytest.mark.parametrize("road", ["weights", "hub.load"])
@pytest.mark.parametrize("revision", ["", "@main"])
def test_published_weights_are_quick_gelu(published, road, revision, caplog):
    model = ROADS[road](published.repo + revision)
    assert "gelu" not in caplog.text.lower()
    assert model.cvt_config.activation == "quick_gelu"
    assert model.eval_transform == published.eval_transform


def test_published_weights_have_imagenets_labels(published):
    assert hub.load_labels(published.repo)[0] == "tench"
