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
# Compiling takes most of the time of a small run.
QUICKLY_COMPILED = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
TWO_DEVICES = {
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {QUICKLY_COMPILED}",
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


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """Return the folder of a run on one device that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finished(start(images, folder))
    return folder


def kill(images, folder, *options, number=signal.SIGKILL, environment=ONE_DEVICE):
    """Kill a run after its first epoch."""
    killed = start(images, folder, *options, environment=environment)
    while not list(folder.glob("resume-*.keras")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(number)
    killed.communicate()
    assert killed.returncode == -number
    assert not (folder / "curves.png").exists()


def assert_same_weights(folder, other):
    for a, b in zip(weights(folder), weights(other), strict=True):
        # Threads add up in another order from run to run.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_killed_run_ends_as_one_that_was_not_killed(images, whole, tmp_path):
    folder = tmp_path / "killed"
    kill(images, folder)
    finished(start(images, folder, "--resume"))
    assert_same_weights(folder, whole)
    names = {path.name for path in folder.iterdir()}
    assert names >= {"best.keras", "last.keras", "log.csv", "curves.png", "run.json"}
    assert not any(name.startswith(("resume-", ".")) for name in names)

    before = (folder / "log.csv").read_bytes()
    assert "is a finished run" in finished(start(images, folder, "--resume"))
    assert (folder / "log.csv").read_bytes() == before


def test_a_run_of_two_devices_ends_the_same_after_a_sigterm(images, tmp_path):
    options = ("--distribute=data_parallel",)
    folder = tmp_path / "killed"
    kill(images, folder, *options, number=signal.SIGTERM, environment=TWO_DEVICES)
    finished(start(images, folder, *options, "--resume", environment=TWO_DEVICES))
    finished(start(images, tmp_path / "whole", *options, environment=TWO_DEVICES))
    assert_same_weights(folder, tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume", "--batch-size=4"), "batch_size: there 8, now 4"),
        ((), "already holds a run. Continue it with --resume, or choose"),
    ],
    ids=["another batch size", "without being told"],
)
def test_a_run_is_not_resumed(images, whole, options, message):
    process = start(images, whole, *options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert message in output
    assert "Traceback" not in output
