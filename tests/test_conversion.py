"""A conversion saves the same network or nothing."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import golden
import hub_models
import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import keras_cvt
from keras_cvt import cli, conversion
from keras_cvt.checkpoints import CheckpointError, save_checkpoint, sources, state_dict
from keras_cvt.config import CVT_13, CvTConfig
from keras_cvt.hub import loading
from keras_cvt.preprocessing import EvalTransform

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
OFFICIAL = CHECKPOINTS / "official_zip.pth"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return golden.write_reference(folder / "reference.npz")


def config():
    return golden.config(golden.load("tiny_base")[1])


@pytest.mark.parametrize(
    "name", ["x.keras", "x.weights.h5", "x.safetensors", "x.pth", "folder"]
)
def test_every_output_is_the_network_of_the_reference(tmp_path, reference, name):
    report = conversion.convert(
        OFFICIAL, tmp_path / name, config=config(), reference=reference
    )
    assert report.entries == 203 and report.classes == 10
    assert report.reference_difference <= 2e-5
    assert report.saved_difference <= 2e-5
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_saved_keras_model_takes_pixels_and_gives_probabilities(tmp_path):
    conversion.convert(OFFICIAL, tmp_path / "x.keras", config=config())
    model = keras.models.load_model(tmp_path / "x.keras")
    scores = model.predict(np.full((1, 64, 64, 3), 255, "uint8"), verbose=0)
    assert scores.sum() == pytest.approx(1, abs=1e-5)
    assert model.description.value_range == (0, 255)


def test_the_class_names_are_kept(tmp_path, caplog):
    folder = tmp_path / "named"
    shutil.copytree(CHECKPOINTS / "hf_pt", folder)
    described = json.loads((folder / "config.json").read_text())
    names = [f"kind {i}" for i in range(len(described["id2label"]))]
    described["id2label"] = dict(enumerate(names))
    (folder / "config.json").write_text(json.dumps(described))
    conversion.convert(folder, tmp_path / "x.keras")
    assert keras.models.load_model(tmp_path / "x.keras").class_names == tuple(names)
    conversion.convert(folder, tmp_path / "again")
    again = json.loads((tmp_path / "again" / "config.json").read_text())
    assert list(again["id2label"].values()) == names
    assert again["label2id"] == {name: i for i, name in enumerate(names)}

    described["id2label"] = {"0": "only one"}
    (folder / "config.json").write_text(json.dumps(described))
    conversion.convert(folder, tmp_path / "x.keras")
    assert "10 classes, but its config.json names 1" in caplog.text
    assert keras.models.load_model(tmp_path / "x.keras").class_names is None


def test_the_configuration_beside_a_transformers_file_is_used(tmp_path):
    report = conversion.convert(CHECKPOINTS / "hf_pt", tmp_path / "x.safetensors")
    assert [stage.embed_dim for stage in report.config.stages] == [16, 32, 48]
    assert report.config.activation == "gelu"


def test_an_official_checkpoint_is_quick_gelu_whatever_transformers_says(
    tmp_path, reference
):
    theirs = CvTConfig.from_json(CHECKPOINTS / "hf_pt" / "config.json")
    assert theirs.activation == "gelu"
    report = conversion.convert(
        OFFICIAL, tmp_path / "x.keras", config=theirs, reference=reference
    )
    assert report.config.activation == "quick_gelu"


def test_an_output_that_differs_from_the_reference_saves_nothing(tmp_path, reference):
    with pytest.raises(conversion.ComparisonError, match="differ from the reference"):
        conversion.convert(
            CHECKPOINTS / "official_fp16.pth",
            tmp_path / "x.keras",
            config=config(),
            reference=reference,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cvt13_224x224", "cvt21_224x224", "cvtw24_384x384"])
@pytest.mark.full_size
def test_pixels_do_not_cost_exactness(tmp_path, name):
    """The reference has normalised images; the classifier takes pixels."""
    meta = golden.load(name)[1]
    model = golden.model(meta)
    checkpoint = tmp_path / "model.safetensors"
    save_checkpoint(model, checkpoint)
    reference = golden.write_reference(tmp_path / "reference.npz", name)
    done = conversion.load(checkpoint, model.cvt_config, reference=reference)
    assert done.model.description.value_range == (0, 255)
    assert done.reference_difference <= conversion.TOLERANCE


def test_a_wrong_architecture_saves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="wrong shape"):
        conversion.convert(OFFICIAL, tmp_path / "x.keras", config=CVT_13)
    assert not list(tmp_path.iterdir())


def test_an_unknown_architecture_asks_for_its_configuration(tmp_path):
    with pytest.raises(CheckpointError, match="pass config=") as error:
        conversion.convert(OFFICIAL, tmp_path / "x.keras")
    # The library does not know the options of the command line.
    assert "--" not in str(error.value)


def test_a_backbone_is_refused(tmp_path):
    model = golden.model(golden.load("tiny_base")[1])
    state = state_dict.extract(model)
    headless = {key: a for key, a in state.items() if not key.startswith("head.")}
    save_file(headless, tmp_path / "backbone.safetensors")
    with pytest.raises(CheckpointError, match="with all stages and a head"):
        conversion.convert(
            tmp_path / "backbone.safetensors", tmp_path / "x.keras", config=config()
        )
    assert not (tmp_path / "x.keras").exists()


def test_an_unknown_output_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=".safetensors"):
        conversion.convert("missing.pth", tmp_path / "x.onnx")


def test_the_transform_of_the_weights_is_kept(tmp_path):
    source = sources.resolve(OFFICIAL)
    transform = EvalTransform((96, 96), None)
    source = dataclasses.replace(source, eval_transform=transform, config=config())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "resolve", lambda *_: source)
        conversion.convert("cvt13/imagenet", tmp_path / "x.keras")
    assert keras.models.load_model(tmp_path / "x.keras").eval_transform == transform


def test_a_failed_comparison_keeps_the_earlier_file(tmp_path):
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"earlier")
    with pytest.raises(conversion.ComparisonError, match="what was saved"):
        conversion.convert(OFFICIAL, out, config=config(), tolerance=-1.0)
    assert out.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [out]


def test_the_script_converts(tmp_path):
    path = tmp_path / "tiny.json"
    config().to_json(path)
    script = Path(__file__).parents[1] / "conversion" / "convert.py"
    done = subprocess.run(
        [sys.executable, script, OFFICIAL, tmp_path / "x.keras", "--model", path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "largest difference" in done.stdout and (tmp_path / "x.keras").is_file()


def own_loss(labels, scores):
    return keras.ops.mean((labels - scores) ** 2)


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    """A model of one's own, as a training saves it: with a loss that is only here."""
    model = hub_models.classifier("gelu")
    model.class_names = hub_models.LABELS
    model.compile("sgd", loss=own_loss)
    path = tmp_path_factory.mktemp("own") / "best.keras"
    model.save(path)
    return path


@pytest.mark.parametrize(
    "name", ["x.keras", "x.weights.h5", "x.safetensors", "x.pth", "folder"]
)
def test_a_keras_file_converts_to_every_output(tmp_path, keras_file, name):
    report = conversion.convert(keras_file, tmp_path / name)
    assert (report.layout, report.classes) == ("keras", 4)
    assert report.config.activation == "gelu" and report.entries == 203
    assert report.saved_difference <= 2e-5
    x = hub_models.images()
    expected = hub_models.outputs(conversion.load_keras_file(keras_file), x)
    if name == "x.keras":
        saved = keras.models.load_model(tmp_path / name)
    elif name == "folder":
        saved = loading.build(sources.resolve(tmp_path / name))
    else:
        saved = keras_cvt.CvT(
            hub_models.config(), weights=tmp_path / name, classes=4, activation="gelu"
        )
    np.testing.assert_allclose(hub_models.outputs(saved, x), expected, atol=1e-5)
    if name in ("x.keras", "folder"):
        assert saved.class_names == tuple(hub_models.LABELS)
        assert saved.eval_transform == EvalTransform((64, 64), None)


def test_a_keras_file_keeps_its_layers_in_front(tmp_path):
    images = keras.Input((80, 80, 3))
    smaller = keras.layers.Resizing(64, 64)(images)
    model = hub_models.classifier(input_tensor=smaller)
    model.save(tmp_path / "own.keras")
    conversion.convert(tmp_path / "own.keras", tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    assert again.description == model.description
    # A folder describes a network, and this is more than one.
    with pytest.raises(ValueError, match="Layers around it.*resizing"):
        conversion.convert(tmp_path / "own.keras", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    "given", [{"config": CVT_13}, {"activation": "gelu"}, {"activation": "quick_gelu"}]
)
def test_a_keras_file_takes_no_other_network(tmp_path, keras_file, given):
    with pytest.raises(ValueError, match="leave out config= and activation="):
        conversion.convert(keras_file, tmp_path / "x.safetensors", **given)


def test_a_keras_file_is_compared_with_a_reference(tmp_path):
    arrays, meta = golden.load("tiny_base")
    reference = golden.write_reference(tmp_path / "reference.npz")
    model = keras_cvt.CvT(config(), classes=10)
    golden.fill(model)
    model.save(tmp_path / "own.keras")
    out = tmp_path / "x.pth"
    report = conversion.convert(tmp_path / "own.keras", out, reference=reference)
    assert report.reference_difference <= 2e-5
    model.get_layer("head").bias.assign_add(keras.ops.ones(10))
    model.save(tmp_path / "own.keras")
    with pytest.raises(conversion.ComparisonError, match="differ from the reference"):
        conversion.convert(tmp_path / "own.keras", out, reference=reference)


def test_a_keras_file_that_is_no_classifier_is_refused(tmp_path, keras_file):
    out = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match="There is no .keras file .*none.keras"):
        conversion.convert(tmp_path / "none.keras", out)
    content = keras_file.read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="Keras cannot load .*cut.keras"):
        conversion.convert(tmp_path / "cut.keras", out)
    inputs = keras.Input((4,))
    other = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    other.save(tmp_path / "other.keras")
    with pytest.raises(CheckpointError, match="Expected a model of keras_cvt"):
        conversion.convert(tmp_path / "other.keras", out)
    keras_cvt.CvT(config(), include_top=False).save(tmp_path / "backbone.keras")
    with pytest.raises(CheckpointError, match="Expected a model with a head"):
        conversion.convert(tmp_path / "backbone.keras", out)
    assert not out.exists()


def test_a_keras_file_becomes_a_repository(tmp_path, keras_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["convert", str(keras_file), "hf://me/own", "--dry-run", "--folder", "made"]
    assert cli.main(words) == 0
    assert "me/own" in capsys.readouterr().out
    folder = tmp_path / "made" / "me--own"
    described = json.loads((folder / "config.json").read_text())
    assert list(described["id2label"].values()) == hub_models.LABELS
    saved = loading.build(sources.resolve(folder))
    expected = hub_models.outputs(conversion.load_keras_file(keras_file))
    np.testing.assert_allclose(hub_models.outputs(saved), expected, atol=1e-5)
    assert saved.eval_transform == EvalTransform((64, 64), None)
