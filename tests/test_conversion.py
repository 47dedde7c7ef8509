"""A conversion saves the same network or nothing."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import golden
import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_cvt import conversion
from keras_cvt.checkpoints import CheckpointError, save_checkpoint, sources, state_dict
from keras_cvt.config import CVT_13, CvTConfig
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
