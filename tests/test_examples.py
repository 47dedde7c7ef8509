"""The examples run as programs and do what they say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from image_folders import write_folder, write_image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_demo_without_a_hub_learns_digits_and_draws_them(tmp_path):
    command = [sys.executable, EXAMPLES / "demo.py", "--offline", "--output", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    accuracy = re.search(r"has not seen: ([\d.]+)%", result.stdout)
    assert float(accuracy[1]) > 95
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def run(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, EXAMPLES / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def test_a_wrong_option_is_a_message_without_a_traceback(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    for arguments, message in (
        (["--data", tmp_path, "--model", "cvt14"], "Expected --model cvt13"),
        (["--data", tmp_path / "nowhere"], "neither a folder nor a data set"),
    ):
        result = run("train.py", *arguments)
        assert result.returncode == 1 and message in result.stderr
        assert "Traceback" not in result.stderr


def test_a_training_without_matplotlib_ends_well_and_says_so(tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "matplotlib.py").write_text("raise ImportError('gone')")
    write_folder(tmp_path / "photos", count=2)
    stage = StageConfig(8, 1, 1, 3, 2, 1, cls_token=True)
    CvTConfig((stage,)).to_json(tmp_path / "tiny.json")
    options = ["--data", tmp_path / "photos", "--model", tmp_path / "tiny.json"]
    options += ["--output", tmp_path / "run", "--image-size", 16, "--batch-size", 4]
    options += ["--epochs", 1, "--warmup-epochs", 0]
    result = run("train.py", *options, PYTHONPATH=str(tmp_path / "without"))
    assert result.returncode == 0, result.stderr
    assert "Curves: not drawn. A plot needs matplotlib" in result.stdout
    assert (tmp_path / "run" / "best.keras").exists()


@pytest.fixture(scope="module")
def validation(tmp_path_factory):
    """A model of 8 classes, images named as ImageNet's, and its scores for them."""
    root = tmp_path_factory.mktemp("evaluate")
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(
        CvTConfig((StageConfig(8, 1, 1, 7, 4, 2, cls_token=True),)),
        classes=8,
        classifier_activation=None,
    )
    model.eval_transform = keras_cvt.preprocessing.EvalTransform((16, 16), None)
    model.save(root / "model.keras")
    paths = []
    for i in range(24):
        name = f"class{i % 8}/ILSVRC2012_val_{i + 1:08d}.JPEG"
        write_image(root / "validation" / name, seed=i)
        paths.append(root / "validation" / name)
    images = [keras_cvt.preprocess_input(path, model) for path in paths]
    return root, np.argsort(-model.predict(np.concatenate(images), verbose=0))


def test_evaluate_measures_and_compares(validation):
    root, ranking = validation
    labels = np.arange(24) % 8
    top1 = 100 * np.mean(ranking[:, 0] == labels)
    top5 = 100 * np.mean((ranking[:, :5] == labels[:, None]).any(1))
    command = ["--data", root, "--model", root / "model.keras", "--published"]
    result = run("evaluate.py", *command, top1 + 0.09)
    assert result.returncode == 0, result.stderr
    assert "24 images" in result.stdout
    assert f"Top-1 {top1:.2f} %, top-5 {top5:.2f} %" in result.stdout
    assert "they agree within 0.1" in result.stdout
    result = run("evaluate.py", *command, top1 - 0.2)
    assert result.returncode == 1
    assert "+0.20 points, they DO NOT agree" in result.stdout


def test_evaluate_takes_the_reassessed_labels(validation, tmp_path):
    root, ranking = validation
    # Two right labels for the first twelve images, none for one, one for the others.
    right = [[int(r[0]), int(r[7])] for r in ranking[:12]] + [[]]
    right += [[int(r[4])] for r in ranking[13:18]] + [[int(r[7])] for r in ranking[18:]]
    path = tmp_path / "real.json"
    path.write_text(json.dumps(right))
    model = root / "model.keras"
    options = ("--data", root, "--model", model, "--real-labels", path)
    result = run("evaluate.py", *options)
    assert result.returncode == 0, result.stderr
    assert "23 images, 1 left out" in result.stdout
    top1, top5 = 100 * 12 / 23, 100 * 17 / 23
    assert f"Top-1 {top1:.2f} %, top-5 {top5:.2f} %" in result.stdout
    assert "no published figure" in result.stdout
