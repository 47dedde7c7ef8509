"""The training program learns: scikit-learn's handwritten digits, as image files."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_cvt
from keras_cvt import StageConfig

pytest.importorskip("tensorflow")
SCRIPT = Path(__file__).parents[2] / "examples" / "train.py"


def write_digits(root):
    images, labels = load_digits(return_X_y=True)
    splits = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=0
    )
    for split, images, labels in zip(
        ("train", "test"), splits[:2], splits[2:], strict=True
    ):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = (image.reshape(8, 8) * 255 / 16).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{i}.png")


def test_it_learns_digits(tmp_path):
    write_digits(tmp_path / "digits")
    config = keras_cvt.CvTConfig(
        (
            StageConfig(32, 1, 1, 3, 1, 1),
            StageConfig(64, 2, 2, 3, 2, 1, cls_token=True),
        )
    )
    config.to_json(tmp_path / "small.json")
    arguments = {
        "data": tmp_path / "digits",
        "model": tmp_path / "small.json",
        "output": tmp_path / "run",
        "image-size": 8,
        "batch-size": 64,
        "epochs": 20,
        "warmup-epochs": 2,
        "learning-rate": 2e-3,
    }
    options = [f"--{name}={value}" for name, value in arguments.items()]
    process = subprocess.run(
        [sys.executable, SCRIPT, *options, "--plain", "--no-flip"],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
    assert process.returncode == 0, process.stderr
    with (tmp_path / "run" / "log.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["val_accuracy"]) > 0.97
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((tmp_path / "run" / "tensorboard").rglob("events.*"))
