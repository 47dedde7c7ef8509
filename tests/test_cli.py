"""The command line, as people type it."""

import json

import golden
import keras
import numpy as np
import pytest
from PIL import Image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt.cli import main
from keras_cvt.preprocessing import EvalTransform

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"


@pytest.fixture(scope="module")
def config_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    golden.config(golden.load("tiny_base")[1]).to_json(path)
    return str(path)


@pytest.fixture
def photos(tmp_path):
    for i in range(3):
        color = (80 * i, 20, 200)
        Image.new("RGB", (90, 60 + i), color).save(tmp_path / f"{i}.png")
    return tmp_path


def predict(config_path, *images, extra=()):
    weights = str(CHECKPOINTS / "official_zip.pth")
    arguments = ["predict", *images, "--model", config_path, "--weights", weights]
    return main([*arguments, *extra])


def test_list_prints_every_weight(capsys):
    assert main(["list"]) == 0
    assert "cvt21/imagenet22k_384" in capsys.readouterr().out


def test_list_as_json_is_json(capsys):
    assert main(["list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["weights"]) == 8


def test_info_prints_the_papers_parameters(capsys):
    assert main(["info", "cvt13"]) == 0
    out = capsys.readouterr().out
    assert "19,997,480" in out and "4.57" in out and "stage2" in out


def test_info_of_a_configuration_file(capsys, config_path):
    assert main(["info", config_path, "--classes", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["parameters"] == 142_602


def test_predict_classifies_a_folder(capsys, photos, config_path):
    assert predict(config_path, str(photos), extra=["--json", "--top", "3"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [len(result["predictions"]) for result in results] == [3, 3, 3]
    for result in results:
        scores = [entry["score"] for entry in result["predictions"]]
        assert scores == sorted(scores, reverse=True) and sum(scores) <= 1


def test_predict_prints_the_names_of_the_classes(capsys, photos, config_path):
    labels = photos / "labels.txt"
    labels.write_text("\n".join(f"animal {i}" for i in range(10)))
    image = str(photos / "0.png")
    assert predict(config_path, image, extra=["--labels", str(labels)]) == 0
    assert "animal" in capsys.readouterr().out


def test_an_unreadable_image_is_named_and_skipped(capsys, photos, config_path):
    (photos / "1.png").write_bytes(b"no image")
    assert predict(config_path, str(photos)) == 1
    captured = capsys.readouterr()
    assert "0.png" in captured.out and "2.png" in captured.out
    assert "skipped" in captured.err and "1.png" in captured.err


def test_a_wrong_number_of_labels_is_refused(capsys, photos, config_path):
    labels = photos / "labels.txt"
    labels.write_text("one\ntwo")
    extra = ["--labels", str(labels)]
    assert predict(config_path, str(photos / "0.png"), extra=extra) == 1
    assert "Expected 10 labels" in capsys.readouterr().err


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_keras_file_brings_its_classes_names(capsys, photos, tmp_path, activation):
    config = CvTConfig((StageConfig(8, 1, 1, 7, 4, 2, cls_token=True),))
    model = keras_cvt.CvT(config, classes=3, classifier_activation=activation)
    model.labels = ["daisy", "rose", "tulip"]
    model.eval_transform = EvalTransform((64, 64), None)
    file = str(tmp_path / "m.keras")
    model.save(file)
    images = [str(photos / "0.png")]
    assert main(["predict", *images, "--model", file, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert {p["label"] for p in result["predictions"]} == set(model.labels)
    pixels = keras_cvt.preprocess_input(images[0], model)
    scores = model.predict(pixels, verbose=0)[0]
    if activation is None:
        scores = np.exp(scores) / np.exp(scores).sum()
    for prediction in result["predictions"]:
        index = model.labels.index(prediction["label"])
        assert prediction["score"] == pytest.approx(scores[index], abs=1e-5)
    if keras.backend.backend() == "tensorflow":
        out = str(tmp_path / "exported")
        assert main(["export", file, out, "--no-verify"]) == 0
        metadata = keras_cvt.deploy.read_metadata(out)
        assert metadata["labels"] == list(model.labels)
        assert metadata["outputs"] == "probabilities"


def test_convert_prints_what_it_compared(capsys, tmp_path, config_path):
    out = str(tmp_path / "x.keras")
    source = str(CHECKPOINTS / "official_zip.pth")
    assert main(["convert", source, out, "--model", config_path]) == 0
    assert "203 arrays" in capsys.readouterr().out
    assert main(["predict", "missing.png", "--model", out]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "cvt99"], "cvt99"),
        (["predict", "x.png", "--weights", "imagenet_21k"], "imagenet22k_384"),
        (["convert", "missing.pth", "x.keras"], "missing.pth"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(capsys, arguments, message):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("keras-cvt: ") and message in error
    assert "Traceback" not in error


def saved(tmp_path, **arguments):
    config = golden.config(golden.load("tiny_base")[1])
    path = tmp_path / "model.keras"
    keras_cvt.CvT(config, classes=10, **arguments).save(path)
    return str(path)


def test_a_model_of_logits_is_shown_with_probabilities(capsys, photos):
    model = saved(photos, classifier_activation=None)
    arguments = ["predict", str(photos), "--model", model, "--top", "10", "--json"]
    assert main(arguments) == 0
    for row in json.loads(capsys.readouterr().out):
        scores = [entry["score"] for entry in row["predictions"]]
        assert sum(scores) == pytest.approx(1, abs=1e-5) and min(scores) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include_preprocessing": False}, "normalised"),
        ({"include_top": False}, "backbone"),
    ],
)
def test_a_model_that_cannot_classify_pixels_is_refused(
    capsys, photos, arguments, message
):
    model = saved(photos, **arguments)
    assert main(["predict", str(photos), "--model", model]) == 1
    assert message in capsys.readouterr().err


def test_a_file_with_weights_takes_no_others(capsys, photos):
    arguments = ["predict", str(photos), "--model", saved(photos)]
    assert main([*arguments, "--weights", "imagenet"]) == 1
    assert "leave out --weights" in capsys.readouterr().err


def test_info_of_a_saved_model_counts_its_own_head(capsys, tmp_path):
    assert main(["info", saved(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["parameters"] == 142_602


@pytest.mark.parametrize("option", ["--batch-size", "--top"])
def test_numbers_below_one_are_refused(capsys, photos, config_path, option):
    with pytest.raises(SystemExit, match="2"):
        predict(config_path, str(photos), extra=[option, "0"])
    assert "expected at least 1" in capsys.readouterr().err
