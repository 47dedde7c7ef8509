"""Facts that come with weights: how images are made, and which commit it is."""

import dataclasses
import hashlib
import json
import shutil

import golden
import hub_models
import numpy as np
import pytest
import safetensors.numpy
from hub_client import loopback
from loopback_hub import COMMIT

import keras_cvt
from keras_cvt import conversion, hub, zoo
from keras_cvt._utils import files
from keras_cvt.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from keras_cvt.checkpoints.sources import resolve
from keras_cvt.preprocessing import EvalTransform

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
REPO = "me/tiny"
TRANSFORMS = [
    EvalTransform((96, 96), 0.9),
    EvalTransform((64, 96), None),
    # transformers cannot express these.
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
    """This also holds if the folder of another model is overwritten."""
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


def first_weights(model):
    return np.array(model.stages[0].weights[0])


def load_into_a_model(name):
    model = hub_models.classifier()
    load_checkpoint(model, f"hf://{name}")
    return model


# The functions that load a repository.
LOADERS = {
    "weights": lambda name: build(f"hf://{name}"),
    "hub.load": lambda name: hub.load(*name.split("@")),
    "hub.load with one name": hub.load,
    "hub.load with a scheme": lambda name: hub.load(f"hf://{name}"),
    "load_checkpoint": load_into_a_model,
}


@pytest.mark.parametrize("loader", LOADERS)
def test_a_revision_is_the_one_that_is_loaded(server, loader):
    old, new = hub_models.classifier(), hub_models.classifier()
    new.set_weights([2 * w for w in new.get_weights()])
    commits = [hub.push(model, REPO).commit for model in (old, new)]
    for model, name in ((old, f"{REPO}@{commits[0]}"), (new, REPO)):
        np.testing.assert_array_equal(
            first_weights(LOADERS[loader](name)), first_weights(model)
        )


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """Serve a small network under the name of CvT-13's repository."""
    record = zoo.find("cvt13/imagenet")
    model = hub_models.classifier()
    monkeypatch.setitem(zoo.MODELS, record.model, model.cvt_config)
    save_checkpoint(model, tmp_path / "saved", layout="transformers")
    server.repos[record.repo] = contents(tmp_path / "saved")
    return record


@pytest.mark.parametrize("loader", LOADERS)
def test_the_recorded_commit_of_published_weights_is_loaded(
    server, published, loader, monkeypatch
):
    """A file with another hash than the recorded one is refused."""
    files_then = server.repos[published.repo]
    digest = hashlib.sha256(files_then["model.safetensors"]).hexdigest()
    files_now = {"model.safetensors": b"of a later commit"}
    server.history[published.repo] = [(COMMIT, files_then), ("f" * 40, files_now)]
    server.repos[published.repo] = files_now

    def record(digest):
        known = {"revision": COMMIT, "sha256": {"model.safetensors": digest}}
        monkeypatch.setattr(zoo, "known_files", lambda: {published.repo: known})

    record("0" * 64)
    with pytest.raises(CheckpointError, match="0" * 64):
        LOADERS[loader](published.repo)
    record(digest)
    np.testing.assert_array_equal(
        first_weights(LOADERS[loader](published.repo)),
        first_weights(hub_models.classifier()),
    )


@pytest.mark.parametrize("loader", ["weights", "hub.load"])
@pytest.mark.parametrize("revision", ["", "@main"])
def test_published_weights_are_quick_gelu(published, loader, revision, caplog):
    model = LOADERS[loader](published.repo + revision)
    assert "gelu" not in caplog.text.lower()
    assert model.cvt_config.activation == "quick_gelu"
    assert model.eval_transform == published.eval_transform


@pytest.mark.parametrize("prefix", ["", "hf://"])
@pytest.mark.parametrize("revision", ["", "@main"])
def test_published_weights_have_the_class_names_of_imagenet(
    server, published, prefix, revision
):
    names = hub.load_class_names(prefix + published.repo + revision)
    assert names[0] == "tench" and len(names) == 1000
    assert not server.steps


@pytest.mark.parametrize("load", [hub.load, hub.load_class_names])
def test_class_names_are_compared_with_their_recorded_hash(server, load):
    model = hub_models.classifier()
    model.class_names = hub_models.LABELS
    hub.push(model, REPO)
    config = server.repos[REPO]["config.json"]
    server.repos[REPO]["config.json"] = config.replace(b"daisy", b"oxeye")
    with pytest.raises(CheckpointError, match=r"config.json .*recorded SHA-256"):
        load(REPO)


@pytest.mark.parametrize("load", [hub.load, hub.load_class_names])
def test_two_revisions_are_refused(load):
    with pytest.raises(ValueError, match="Expected one revision"):
        load(f"{REPO}@main", revision="v2")


def test_a_conversion_reports_the_original_layout_of_published_weights(
    published, tmp_path
):
    """The first conversion downloads them. The second reads our converted copy."""
    for name in ("first.safetensors", "second.safetensors"):
        report = conversion.convert(published.name, tmp_path / name)
        assert report.layout == "transformers"


def test_weights_of_another_network_of_the_same_shapes_say_so(tmp_path, caplog):
    config = golden.config(golden.load("tiny_base")[1])
    save_checkpoint(build(None), tmp_path, layout="transformers")
    keras_cvt.CvT(config.with_overrides(drop_rate=0.1), weights=tmp_path, classes=4)
    assert "another network" not in caplog.text
    stages = [*config.stages[:2], dataclasses.replace(config.stages[2], stride_kv=1)]
    other = dataclasses.replace(config, stages=tuple(stages))
    keras_cvt.CvT(other, weights=tmp_path, classes=4)
    assert "stage 2's stride_kv=1, trained with 2" in caplog.text


def test_without_an_activation_the_checkpoint_decides(tmp_path):
    config = golden.config(golden.load("tiny_base")[1])
    gelu = keras_cvt.CvT(config, classes=4, activation="gelu")
    save_checkpoint(gelu, tmp_path, layout="transformers")
    loaded = keras_cvt.CvT(config, weights=tmp_path, classes=4, activation=None)
    assert loaded.cvt_config.activation == "gelu"


def test_an_official_checkpoint_may_lie_beside_files_of_another_program(tmp_path):
    save_checkpoint(build(None), tmp_path / "model.safetensors", layout="official")
    (tmp_path / "config.json").write_text("[1]")
    assert build(tmp_path / "model.safetensors").count_params() > 0


def test_a_kernel_of_other_axes_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(build(None), path, layout="official")
    state = safetensors.numpy.load_file(path)
    state["stage0.patch_embed.proj.weight"] = np.zeros(3, "float32")
    safetensors.numpy.save_file(state, path)
    with pytest.raises(CheckpointError, match=r"proj.weight with 4 axes. Received"):
        build(path)


@pytest.mark.parametrize("weights", ["missing/cvt", "missing.pth"])
def test_a_path_of_no_file_is_not_called_a_tag(weights):
    with pytest.raises(FileNotFoundError, match="no file or folder of weights"):
        build(weights)
