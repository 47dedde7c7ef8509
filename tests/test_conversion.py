"""A conversion saves the same network, or nothing."""

import golden
import keras
import numpy as np
import pytest

from keras_cvt import conversion
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.config import CVT_13

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
OFFICIAL = CHECKPOINTS / "official_zip.pth"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    expected, meta = golden.load("tiny_base")
    path = tmp_path_factory.mktemp("reference") / "reference.npz"
    np.savez(path, input=golden.images(meta), logits=expected["logits"])
    return path


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
    assert model.get_layer("preprocessing").normalize


def test_the_configuration_beside_a_transformers_file_is_used(tmp_path):
    report = conversion.convert(CHECKPOINTS / "hf_pt", tmp_path / "x.safetensors")
    assert [stage.embed_dim for stage in report.config.stages] == [16, 32, 48]
    assert report.config.activation == "gelu"


def test_another_output_than_the_references_saves_nothing(tmp_path, reference):
    with pytest.raises(conversion.ComparisonError, match="differ from the reference"):
        conversion.convert(
            CHECKPOINTS / "official_fp16.pth",
            tmp_path / "x.keras",
            config=config(),
            reference=reference,
        )
    assert not list(tmp_path.iterdir())


def test_a_wrong_architecture_saves_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="wrong shape"):
        conversion.convert(OFFICIAL, tmp_path / "x.keras", config=CVT_13)
    assert not list(tmp_path.iterdir())


def test_an_unknown_architecture_asks_for_its_configuration(tmp_path):
    with pytest.raises(CheckpointError, match="config.json"):
        conversion.convert(OFFICIAL, tmp_path / "x.keras")


def test_an_unknown_output_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=".safetensors"):
        conversion.convert("missing.pth", tmp_path / "x.onnx")
