"""`keras-cvt export`, `keras-cvt verify` and the examples that run the files."""

import json
import re
import subprocess
import sys
from pathlib import Path

import networks
import pytest

import keras_cvt
from keras_cvt.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
CLASS_NAMES = [f"class {i}" for i in range(10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model, its class names, two photos and three exports."""
    folder = tmp_path_factory.mktemp("programs")
    networks.save_classifier(folder / "model.keras")
    (folder / "names.txt").write_text("\n".join(CLASS_NAMES))
    networks.save_photos(folder / "photos", [(90, 121), (70, 50)])
    for file in ("model.tflite", "model.onnx", "saved_model"):
        assert main(export_arguments(folder, file, "--no-verify")) == 0
    return folder


def export_arguments(folder, file, *extra):
    model, names = str(folder / "model.keras"), str(folder / "names.txt")
    return ["export", model, str(folder / file), "--class-names", names, *extra]


def expected(folder):
    """Return each photo's best class and its score, as keras_cvt computes them."""
    import keras

    model = keras.models.load_model(folder / "model.keras")
    paths = sorted((folder / "photos").iterdir())
    scores = model.predict(keras_cvt.preprocess_input(paths, model), verbose=0)
    return [(CLASS_NAMES[row.argmax()], 100 * row.max()) for row in scores]


@pytest.mark.parametrize(
    "example, file, absent",
    [
        ("tflite_predict.py", "model.tflite", ["keras_cvt", "keras", "tensorflow"]),
        ("onnx_predict.py", "model.onnx", ["keras_cvt", "keras", "tensorflow"]),
        ("savedmodel_predict.py", "saved_model", ["keras_cvt", "keras"]),
    ],
)
def test_examples_classify_as_the_model_does_without_keras_cvt(
    folder, example, file, absent
):
    photos = sorted(map(str, (folder / "photos").iterdir()))
    program = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r})\n"
        f"sys.argv = {['example', str(folder / file), *photos]!r}\n"
        f"runpy.run_path({str(EXAMPLES / example)!r}, run_name='__main__')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]
    best = re.findall(r"\.png\n +([\d.]+)%  (.+)", result.stdout)
    for (score, name), (wanted, wanted_score) in zip(
        best, expected(folder), strict=True
    ):
        assert name == wanted
        # TensorFlow's resize is within two levels of PIL's.
        assert float(score) == pytest.approx(wanted_score, abs=1.0)


def test_export_ends_with_a_verification_on_the_given_images(folder, capsys):
    images = str(folder / "photos")
    arguments = ["--quantization", "dynamic_int8", "--images", images]
    assert main(export_arguments(folder, "small.tflite", *arguments)) == 0
    out = capsys.readouterr().out
    assert "2 images" in out and "passed" in out and "top-1 agreement" in out


def test_int8_calibrates_on_the_given_folder(folder, capsys):
    arguments = ["--quantization", "int8", "--representative", str(folder / "photos")]
    main(export_arguments(folder, "int8.tflite", "--json", *arguments))
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["quantization"] == "int8"


def test_verify_as_json_is_json(folder, capsys):
    model, file = str(folder / "model.keras"), str(folder / "model.onnx")
    assert main(["verify", model, file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_difference"] <= 1e-4


def test_verify_ends_with_1_when_the_file_is_another_networks(folder, capsys):
    other = networks.build(networks.CONFIGS["linear"], classifier_activation="softmax")
    other.eval_transform = keras_cvt.preprocessing.EvalTransform((64, 64), 0.875)
    other.save(folder / "other.keras")
    file = str(folder / "model.tflite")
    assert main(["verify", str(folder / "other.keras"), file]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_errors_are_one_line_and_status_1(folder, capsys):
    assert main(export_arguments(folder, "model.onnx", "--format", "litert")) == 1
    assert "ends in .tflite" in capsys.readouterr().err
    model = str(folder / "model.keras")
    assert main(["verify", model, str(folder / "names.txt")]) == 1
    assert "deploy.export wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("x.tflit", (), "end in .tflite, .onnx or .xml"),
        ("x.tflite", ("--quantization", "int8"), "--representative"),
    ],
)
def test_export_says_what_is_missing(folder, capsys, out, options, message):
    assert main(export_arguments(folder, out, *options)) == 1
    assert message in capsys.readouterr().err
    assert not (folder / out).exists()
