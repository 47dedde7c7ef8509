"""The command line `keras-cvt`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import golden
import keras
import numpy as np
import pytest
from PIL import Image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt._utils import progress
from keras_cvt.cli import format_help, main
from keras_cvt.deploy import formats
from keras_cvt.preprocessing import EvalTransform

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
README = Path(__file__).parent.parent / "README.md"
COMMANDS = (
    *("list", "info", "predict", "evaluate", "explain", "embed"),
    *("convert", "export", "verify", "benchmark"),
)


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


@pytest.mark.parametrize("flag", ["--class-names", "--labels"])
def test_predict_prints_the_class_names(capsys, photos, config_path, flag):
    names = photos / "names.txt"
    names.write_text("\n".join(f"animal {i}" for i in range(10)))
    image = str(photos / "0.png")
    assert predict(config_path, image, extra=[flag, str(names)]) == 0
    assert "animal" in capsys.readouterr().out


def test_an_unreadable_image_is_named_and_skipped(capsys, photos, config_path):
    (photos / "1.png").write_bytes(b"no image")
    assert predict(config_path, str(photos)) == 1
    captured = capsys.readouterr()
    assert "0.png" in captured.out and "2.png" in captured.out
    assert "skipped" in captured.err and "1.png" in captured.err


def test_a_wrong_number_of_class_names_is_refused(capsys, photos, config_path):
    names = photos / "names.txt"
    names.write_text("one\ntwo")
    extra = ["--class-names", str(names)]
    assert predict(config_path, str(photos / "0.png"), extra=extra) == 1
    error = capsys.readouterr().err
    assert "Expected 10 class names" in error and str(names) in error


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_keras_file_contains_its_class_names(capsys, photos, tmp_path, activation):
    config = CvTConfig((StageConfig(8, 1, 1, 7, 4, 2, cls_token=True),))
    model = keras_cvt.CvT(config, classes=3, classifier_activation=activation)
    model.class_names = ["daisy", "rose", "tulip"]
    model.eval_transform = EvalTransform((64, 64), None)
    file = str(tmp_path / "m.keras")
    model.save(file)
    images = [str(photos / "0.png")]
    assert main(["predict", *images, "--model", file, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert {p["label"] for p in result["predictions"]} == set(model.class_names)
    pixels = keras_cvt.preprocess_input(images[0], model)
    scores = model.predict(pixels, verbose=0)[0]
    if activation is None:
        scores = np.exp(scores) / np.exp(scores).sum()
    for prediction in result["predictions"]:
        index = model.class_names.index(prediction["label"])
        assert prediction["score"] == pytest.approx(scores[index], abs=1e-5)
    if keras.backend.backend() == "tensorflow":
        out = str(tmp_path / "exported")
        assert main(["export", file, out, "--no-verify"]) == 0
        metadata = keras_cvt.deploy.read_metadata(out)
        assert metadata["labels"] == list(model.class_names)
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


@pytest.mark.parametrize(
    ("shape", "options", "size"),
    [
        ((64, 96, 3), [], (64, 96)),
        ((None, 96, 3), [], (224, 96)),
        ((None, None, 3), [], (224, 224)),
        ((64, 96, 3), ["--size", "32"], (32, 32)),
    ],
)
def test_info_counts_at_the_files_own_size(capsys, tmp_path, shape, options, size):
    file = saved(tmp_path, input_shape=shape)
    assert main(["info", file, *options]) == 0
    assert "one image of {} x {}.".format(*size) in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["info", file, *options, "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    # The first stage divides both sides by its stride, 4.
    assert parts[0]["output"][:2] == [size[0] // 4, size[1] // 4]


@pytest.mark.parametrize("option", ["--batch-size", "--top"])
def test_numbers_below_one_are_refused(capsys, photos, config_path, option):
    with pytest.raises(SystemExit, match="2"):
        predict(config_path, str(photos), extra=[option, "0"])
    assert "expected at least 1" in capsys.readouterr().err


def test_info_counts_the_channels_of_the_file(capsys, tmp_path, monkeypatch):
    model = saved(tmp_path, input_shape=(None, None, 1), include_preprocessing=False)
    load, loaded = keras.models.load_model, []
    monkeypatch.setattr(
        keras.models,
        "load_model",
        lambda path, **options: loaded.append(path) or load(path, **options),
    )
    assert main(["info", model, "--json"]) == 0
    parameters = json.loads(capsys.readouterr().out)["total"]["parameters"]
    weights = load(model).trainable_weights
    assert parameters == sum(int(np.prod(w.shape)) for w in weights)
    assert len(loaded) == 1


def test_a_regression_model_is_refused_by_its_name(capsys, photos):
    model = keras.models.load_model(saved(photos, classifier_activation=None))
    model.output_kind = "regression"
    model.save(photos / "regression.keras")
    arguments = ["predict", str(photos / "0.png"), "--model"]
    assert main([*arguments, str(photos / "regression.keras")]) == 1
    assert "whose outputs are regression" in capsys.readouterr().err


def help_of(capsys, *command):
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    return capsys.readouterr().out


def test_help_lists_every_command(capsys):
    text = help_of(capsys)
    assert all(re.search(rf"^ +{name}\b", text, re.M) for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_names_its_flags_of_the_readme(capsys, command):
    text = help_of(capsys, command)
    lines = re.findall(rf"^ +keras-cvt {command} (.*)$", README.read_text(), re.M)
    flags = {flag for line in lines for flag in re.findall("--[a-z-]+", line)}
    assert all(flag in text for flag in flags)
    assert "--json" in text or command == "convert"


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["--help"], 0, "COMMAND"),
        (["--version"], 0, keras_cvt.__version__),
        (["list"], 0, "cvtw24/imagenet22k_384"),
        (["predict", "--help"], 0, "--top"),
        (["convert", "--help"], 0, "'openvino' (.xml; quantizations"),
        (["export", "--help"], 0, "dynamic_int8, int8"),
        (["export", "cvt13", "a.onnx", "--wrong"], 2, "unrecognized arguments"),
        (["predict", "a.jpg", "--wrong"], 2, "unrecognized arguments: --wrong"),
        (["export", "cvt13", "a.onnx", "--size", "0"], 2, "expected at least 1"),
        (["nonsense"], 2, "invalid choice: 'nonsense'"),
        ([], 2, "required: COMMAND"),
    ],
)
def test_help_and_wrong_calls_do_not_import_keras(words, status, expected):
    program = (
        "import sys, _keras_cvt_command\n"
        "try:\n"
        "    sys.exit(_keras_cvt_command.main())\n"
        "finally:\n"
        "    names = {'keras', 'tensorflow', 'jax', 'torch', 'numpy', 'PIL'}\n"
        "    print(sorted(names & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", program, *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == status
    assert expected in result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_program_runs_the_package_when_a_command_needs_it():
    program = (
        "import sys, _keras_cvt_command\n"
        "status = _keras_cvt_command.main()\n"
        "print(status, sys.modules['keras_cvt'].CvT13.__name__)\n"
    )
    command = [sys.executable, "-c", program, "info", "cvt13"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "19,997,480" in result.stdout, result.stderr
    assert result.stdout.splitlines()[-1] == "0 CvT13"


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "keras_cvt.cli", "list", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert len(json.loads(result.stdout)["weights"]) == 8, result.stderr


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", [*formats.variants(), "saved_model"])
def test_every_command_takes_the_same_format_names(capsys, photos, model_file, name):
    """Each call passes the check of the name, and fails at a later check."""
    image = str(photos / "0.png")
    variant = formats.find_variant(name)
    calibration = ["--representative", image] if variant.needs_images else []
    out = str(photos / variant.file_name)
    for arguments, message in (
        (["export", model_file, out, "--size", "2", "--format", name], "too small"),
        (
            ["benchmark", model_file, "--batch-size", "5", "--images", image]
            + ["--formats", name],
            "at least one call",
        ),
        (
            ["convert", "missing.pth", "hf://org/repo", "--exports", name],
            "missing.pth",
        ),
    ):
        assert main([*arguments, *calibration]) == 1
        assert message in capsys.readouterr().err


def test_an_unknown_format_is_answered_with_the_names(capsys):
    assert main(["export", "cvt13", "x", "--format", "tflite"]) == 1
    error = capsys.readouterr().err
    assert all(name in error for name in formats.variants())


def test_an_error_names_the_flag_for_an_argument(capsys, tmp_path, config_path):
    source = str(CHECKPOINTS / "official_zip.pth")
    assert main(["convert", source, str(tmp_path / "x.keras")]) == 1
    assert "pass --model config.json" in capsys.readouterr().err


def test_the_formats_of_the_help_are_those_of_the_records(capsys):
    plain = ("name", "suffix", "aliases", "quantizations", "default_batch_size")
    expected = [
        {name: getattr(record, name) for name in plain}
        for record in formats.FORMATS.values()
    ]
    defaults = {"suffix": None, "aliases": (), "quantizations": (None,)}
    defaults["default_batch_size"] = None
    found = [defaults | record for record in format_help.records()]
    assert [{name: record[name] for name in plain} for record in found] == expected
    for command in ("convert", "export", "benchmark"):
        text = " ".join(help_of(capsys, command).split())
        assert all(name in text for name in formats.FORMATS)


# As in a shell: the variables that a test run may set are not there.
SHELL = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}


def shell(*words, **environment):
    """Run the installed program in a process of its own."""
    code = "import sys, _keras_cvt_command; sys.exit(_keras_cvt_command.main())"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        env=SHELL | environment,
        timeout=300,
    )


def test_the_program_prints_no_log_of_tensorflow(photos, tmp_path):
    model = saved(photos)
    image = photos / "0.png"
    # Exports: tests/deploy/test_foreign_output.py.
    for words in (
        ["info", model],
        ["doctor"],
        ["predict", image, "--model", model],
        ["convert", model, tmp_path / "x.safetensors"],
    ):
        done = shell(*words)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", words


def test_who_asks_for_tensorflows_log_gets_it():
    done = shell("info", "cvt13", TF_CPP_MIN_LOG_LEVEL="0", KERAS_BACKEND="tensorflow")
    assert done.returncode == 0 and done.stderr


def test_the_log_level_that_jax_sets_asks_for_no_log():
    done = shell("info", "cvt13", TF_CPP_MIN_LOG_LEVEL="1", KERAS_BACKEND="tensorflow")
    assert done.returncode == 0 and done.stderr == ""


def test_an_error_of_the_import_is_shown(tmp_path):
    (tmp_path / "keras.py").write_text("import os; os.write(2, b'broken'); 1 / 0")
    done = shell("info", "cvt13", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("broken\nTraceback") and "ZeroDiv" in done.stderr


def test_progress_in_a_file_is_lines(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    with progress.Progress() as shown:
        for done in range(3):
            shown.update(done, 2000)
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert lines[-1].startswith("2 of 2,000 images, ") and lines[-1].endswith("left\n")
    assert "\r" not in "".join(lines)


def test_progress_on_a_terminal_is_a_bar():
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    code = (
        "from tqdm import tqdm\n"
        "from keras_cvt._utils.progress import LinesInFiles\n"
        "class Bar(LinesInFiles, tqdm): pass\n"
        "with Bar(total=2, unit='B') as bar: bar.update(2)\n"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-c", code]
    subprocess.run(command, stderr=theirs, check=True, timeout=300)
    assert b"\r100%|" in os.read(ours, 10_000)
