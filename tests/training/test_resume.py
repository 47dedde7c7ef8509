"""A killed run resumes, and ends as a run that was not killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from image_folders import write_folder

import keras_cvt
from keras_cvt import StageConfig

pytest.importorskip("tensorflow")
SCRIPT = Path(__file__).parents[2] / "examples" / "train.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), count=12)


# The environment of a program: with one device, or with two that share every batch.
ONE_DEVICE = {"KERAS_BACKEND": "tensorflow"}
TWO_DEVICES = {
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
}


def start(images, output, *extra, environment=ONE_DEVICE):
    config = images / "tiny.json"
    keras_cvt.CvTConfig(
        (StageConfig(8, 2, 1, 3, 2, 1), StageConfig(16, 1, 2, 3, 2, 1, cls_token=True))
    ).to_json(config)
    arguments = {
        "data": images,
        "model": config,
        "output": output,
        "image-size": 16,
        "batch-size": 8,
        "epochs": 3,
        "warmup-epochs": 1,
        "crop-padding": 2,
        "drop-path-rate": 0.3,
        "ema": 0.9,
    }
    options = [f"--{name}={value}" for name, value in arguments.items()]
    return subprocess.Popen(
        [sys.executable, SCRIPT, *options, *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def finished(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def weights(folder):
    model = keras.models.load_model(folder / "last.keras")
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


@pytest.mark.parametrize(
    ("environment", "options"),
    [(ONE_DEVICE, ()), (TWO_DEVICES, ("--distribute=data_parallel",))],
    ids=["one device", "two devices"],
)
def test_a_killed_run_ends_as_one_that_was_not_killed(
    images, tmp_path, environment, options
):
    finished(start(images, tmp_path / "whole", *options, environment=environment))
    killed = start(images, tmp_path / "killed", *options, environment=environment)
    while not list((tmp_path / "killed").glob("resume-*.keras")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "curves.png").exists()

    resumed = (*options, "--resume")
    finished(start(images, tmp_path / "killed", *resumed, environment=environment))
    for a, b in zip(
        weights(tmp_path / "killed"), weights(tmp_path / "whole"), strict=True
    ):
        # Threads add up in another order from run to run.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names >= {"best.keras", "last.keras", "log.csv", "curves.png", "run.json"}
    assert not any(name.startswith("resume-") for name in names)

    before = (tmp_path / "killed" / "log.csv").read_bytes()
    again = start(images, tmp_path / "killed", *resumed, environment=environment)
    assert "is a finished run" in finished(again)
    assert (tmp_path / "killed" / "log.csv").read_bytes() == before


def test_a_run_with_another_batch_size_is_not_resumed(images, tmp_path):
    finished(start(images, tmp_path / "run"))
    for extra, message in (
        (("--resume", "--batch-size=4"), "batch_size: there 8, now 4"),
        ((), "already holds a run. Continue it with --resume, or choose"),
    ):
        process = start(images, tmp_path / "run", *extra)
        output, _ = process.communicate(timeout=300)
        assert process.returncode != 0
        assert message in output
        assert "Traceback" not in output
