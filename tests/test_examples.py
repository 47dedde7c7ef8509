"""The examples run as programs and do what they say."""

import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_folders import write_folder
from PIL import Image

from keras_cvt import CvTConfig, StageConfig, cli, deploy

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder that the demo wrote without a Hub, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, EXAMPLES / "demo.py", "--offline", "--output", folder]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    return folder, result.stdout


def test_the_demo_without_a_hub_learns_and_looks_at_the_object(demo):
    _, printed = demo
    accuracy = re.search(r"has not seen: ([\d.]+)%", printed)
    assert float(accuracy[1]) > 85
    heat, area = re.search(r"(\d+)% of the heat .* covers (\d+)%", printed).groups()
    assert int(heat) > 2 * int(area)


def test_the_demos_picture_and_exported_file_are_there(demo):
    folder, printed = demo
    assert "gives the same answer for 100.0% of 400 photos" in printed
    with Image.open(folder / "demo.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 800
    assert deploy.read_metadata(folder / "model.tflite")["class_names"][1] == "cat"


def test_the_demos_scenes_can_be_classified_as_photos(demo):
    """By the command that the demo prints at its end."""
    folder, printed = demo
    command = re.search(r"keras-cvt (predict .*)", printed)[1].split()
    status, found = run_command(*command, "--json")
    assert status == 0
    best = {
        Path(each["image"]).stem: each["predictions"][0]["label"]
        for each in json.loads(found)
    }
    assert len(best) == 8
    right = sum(name.replace("_", " ") == label for name, label in best.items())
    assert right >= 6


@pytest.fixture(scope="module")
def photo_scenes():
    spec = importlib.util.spec_from_file_location(
        "photo_scenes", EXAMPLES / "photo_scenes.py"
    )
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        spec.loader.exec_module(module)
    return module


def test_a_scene_is_the_same_again_and_at_any_size(photo_scenes):
    for split in ("train", "test"):
        small, again, large = (
            photo_scenes.PhotoScenes(split, 16, side)[11] for side in (64, 64, 256)
        )
        np.testing.assert_array_equal(small.image, again.image)
        assert small.label == large.label == 11 % len(photo_scenes.NAMES)
        reduced = np.asarray(Image.fromarray(large.image).resize((64, 64)))
        assert np.abs(reduced - small.image.astype(float)).mean() < 12
        share = [scene.outline.mean() for scene in (small, large)]
        assert share[0] == pytest.approx(share[1], rel=0.15) and share[0] > 0.03


def test_test_scenes_have_other_photos_behind_and_other_coins(photo_scenes):
    train, test = (set(names) for names in photo_scenes._BEHIND)
    assert train and test and not train & test
    shown = {photo for photo, *_ in photo_scenes._SHAPES.values()} | {"coins"}
    assert not shown & (train | test)
    coins = [photo_scenes._objects("coin", split) for split in (0, 1)]
    pixels = [{coin.tobytes() for coin in each} for each in coins]
    assert len(pixels[0]) == 18 and len(pixels[1]) == 6 and not pixels[0] & pixels[1]


def run(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, EXAMPLES / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def run_command(*words):
    """Return the exit status of `keras-cvt` and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        return cli.main(list(words)), printed.getvalue()


@pytest.mark.parametrize(
    ("program", "weights"),
    [
        ("fine_tune.py", ["--weights", "nowhere.pth"]),
        ("fine_tune.py", ["--weights", "hf://org/repo"]),
        ("fine_tune.py", []),
        ("distill.py", ["--teacher", "cvt13"]),
        ("train.py", ["--model", "nowhere.json"]),
    ],
)
def test_without_its_weights_a_run_leaves_no_folder(tmp_path, program, weights):
    write_folder(tmp_path / "photos", count=2)
    options = ["--data", tmp_path / "photos", "--output", tmp_path / "run", *weights]
    result = run(
        *(program, *options),
        # No Hub, and nothing of it in a cache.
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path / "hub"),
        KERAS_HOME=str(tmp_path / "keras"),
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_default_recipe_is_for_ones_own_photos(tmp_path):
    """Which may lie in class folders, without folders for training and validation."""
    write_folder(tmp_path, splits=("photos",), count=20)
    stage = StageConfig(8, 1, 1, 7, 4, 2, cls_token=True, drop_path_rate=0.1)
    CvTConfig((stage,)).to_json(tmp_path / "tiny.json")
    options = ["--data", tmp_path / "photos", "--model", tmp_path / "tiny.json"]
    options += ["--weights", "none", "--output", tmp_path / "run", "--epochs", 1]
    result = run("fine_tune.py", *options)
    assert result.returncode == 0, result.stderr
    assert "32 training and 8 validation images of 2 classes" in result.stdout
    record = json.loads((tmp_path / "run" / "run.json").read_text())["fit"]
    assert (record["batch_size"], record["recipe"]["optimizer"]) == (32, "adamw")
    assert record["recipe"]["image_size"] == 224
    # A tenth of the only epoch, since the recipe's two would be longer.
    assert record["recipe"]["warmup_epochs"] == 0.1


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
