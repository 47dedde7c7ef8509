"""The command `evaluate`."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from command_line import run
from evaluated import NAMES, network, scores_of, write_images

from keras_cvt import deploy, hub
from keras_cvt.evaluation import evaluate


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A saved model, a page of it, an exported file, and images."""
    root = tmp_path_factory.mktemp("command")
    model = network(activation=None)
    model.save(root / "own.keras")
    deploy.export(model, root / "own.onnx")
    write_images(root / "animals" / "validation", NAMES, 3)
    # transformers builds stage i only if it has more than i blocks.
    hub.write_folder(model, root / "page", repo_id="me/animals")
    return root


@pytest.fixture(scope="module")
def result(root):
    return evaluate(root / "own.keras", root / "animals")


def command(root, *arguments, model="own.keras"):
    return run("evaluate", root / "animals", "--model", root / model, *arguments)


def test_it_prints_the_result_and_compares(root, result):
    published = f"{result.top1 + 0.09:.4f}"
    status, printed, errors = command(root, "--published", published)
    assert (status, errors) == (0, "")
    assert "animals validation: 24 images" in printed
    assert f"Top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %" in printed
    assert "-0.09 points, they agree within 0.1." in printed
    assert all(name in printed for name in NAMES)
    status, printed, _ = command(root, "--published", result.top1 - 0.2)
    assert status == 1
    assert "+0.20 points, they DO NOT agree" in printed


def test_without_a_published_accuracy_the_status_is_0(root):
    status, printed, _ = command(root, "--batch-size", 5, "--worst", 2)
    assert status == 0
    assert "There is no published figure to compare with." in printed
    assert "2 worst classes, the worst first:" in printed
    assert "images a second" in printed


@pytest.mark.parametrize("model", ["own.keras", "own.onnx", "page"])
def test_json_is_the_same_for_a_model_its_export_and_its_page(root, result, model):
    status, printed, _ = command(root, "--json", "--bins", 10, model=model)
    values = json.loads(printed)
    assert status == 0
    assert (values["top1"], values["top5"]) == (result.top1, result.top5)
    assert values["classes"] == [vars(row) for row in result.classes]
    assert len(values["calibration"]) == 10


def test_reassessed_labels(root, result, tmp_path):
    paths = sorted((root / "animals" / "validation").rglob("*.JPEG"))
    best = scores_of(keras.models.load_model(root / "own.keras"), paths).argmax(axis=1)
    right = (
        [[int(i), 0] for i in best[:8]] + [[]] + [[(int(i) + 1) % 8] for i in best[9:]]
    )
    (tmp_path / "real.json").write_text(json.dumps(right))
    status, printed, _ = command(root, "--real-labels", tmp_path / "real.json")
    assert status == 0
    assert "ImageNet ReaL validation: 23 images, 1 left out (1 have no" in printed
    assert f"Top-1 {100 * 8 / 23:.2f} %" in printed


def test_class_names_of_a_file_are_those_of_the_folders(root, tmp_path):
    write_images(tmp_path / "tiere", [name.upper() for name in NAMES], 1)
    status, _, errors = run(
        "evaluate", tmp_path / "tiere", "--model", root / "own.keras"
    )
    assert status == 1 and "ant, bee, cat, dog, emu and 3 more" in errors
    (tmp_path / "names.txt").write_text("\n".join(NAMES).upper())
    for model in ("own.keras", "own.onnx", "page"):
        options = ["--model", root / model, "--class-names", tmp_path / "names.txt"]
        status, printed, _ = run("evaluate", tmp_path / "tiere", *options)
        assert status == 0 and "tiere: 8 images" in printed and "HEN" in printed


def test_images_that_cannot_be_read_are_listed(root, tmp_path):
    paths = write_images(tmp_path, NAMES[:2], 2)
    paths[1].write_bytes(b"no image")
    status, printed, errors = run("evaluate", tmp_path, "--model", root / "own.keras")
    assert status == 0 and "3 images, 1 left out" in printed
    assert f"skipped {paths[1]}: " in errors


def test_a_plot_is_written(root, tmp_path):
    plot = tmp_path / "plot.png"
    status, printed, _ = command(root, "--plot", plot)
    assert status == 0 and f"saved {plot}" in printed
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_is_refused_before_the_work(root, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('gone')")
    words = ["evaluate", root / "missing", "--model", root / "missing.keras"]
    done = subprocess.run(
        [sys.executable, "-m", "keras_cvt.cli", *words, "--plot", "plot.png"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert (
        "A plot needs matplotlib" in done.stderr and "keras_cvt[train]" in done.stderr
    )


def test_the_result_is_written_into_the_models_folder(root, result, tmp_path):
    import shutil

    page = tmp_path / "page"
    shutil.copytree(root / "page", page)
    # Without --model it is the folder's.
    status, printed, _ = run("evaluate", root / "animals", "--write", page)
    assert status == 0 and f"saved {page}" in printed
    first = {path.name: path.read_bytes() for path in page.iterdir()}
    row = f"| animals | validation | accuracy | {round(result.top1, 2):g} |"
    assert row in (page / "README.md").read_text()
    assert command(root, "--write", page)[0] == 0
    assert {path.name: path.read_bytes() for path in page.iterdir()} == first


def test_a_folder_of_another_model_is_refused_before_the_work(root, tmp_path):
    other = network()
    other.get_layer("head").bias.assign(np.ones(8))
    other.save(tmp_path / "other.keras")
    for data in (root / "animals", tmp_path / "missing"):
        options = ["--model", tmp_path / "other.keras", "--write", root / "page"]
        status, printed, errors = run("evaluate", data, *options)
        assert (status, printed) == (1, "")
        assert "that of cvt, which is another" in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--write", "page", "--precision", "float16"], "without --precision"),
        (["--plot", "plot.jpg"], "Expected the path of a .png file"),
        (["--write", "missing"], "There is no folder missing"),
        (["--weights", "imagenet"], "leave out --weights"),
        (["--threads", "2"], "--threads with an exported file"),
        (["--precision", "bfloat16"], "leave out --precision"),
        (["--split", "test"], "Expected a folder 'test'"),
    ],
)
def test_wrong_options_are_refused(root, options, message):
    status, printed, errors = command(root, *options)
    assert (status, printed) == (1, "") and message in errors


def test_a_folder_of_a_model_has_its_own_weights(root):
    status, _, errors = command(root, "--weights", "imagenet", model="page")
    assert status == 1 and "leave out --weights" in errors


def test_the_precision_is_that_of_this_call_only(root, result):
    before = keras.config.dtype_policy().name
    status, printed, _ = command(
        root, "--precision", "bfloat16", "--json", model="page"
    )
    values = json.loads(printed)
    assert status == 0 and keras.config.dtype_policy().name == before
    # Rounding shows in the scores.
    assert values["confidence"] != result.metrics.confidence
    assert values["confidence"] == pytest.approx(result.metrics.confidence, abs=2)


def test_the_help_does_not_import_keras():
    program = (
        "import sys, _keras_cvt_command\n"
        "try:\n    _keras_cvt_command.main()\n"
        "except SystemExit:\n    print('keras' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "evaluate", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "--real-labels" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"
