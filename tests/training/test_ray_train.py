"""Training in processes that Ray Train starts: the loss of one process, and resuming.

The programs are those of examples/, each with a Ray cluster of its own.
"""

import os
import signal
import threading
import time

import keras
import numpy as np
import pytest
import ray_cluster
from image_folders import write_folder
from test_resume import QUICKLY_COMPILED, finished, start

from keras_cvt import training

pytest.importorskip("tensorflow")
pytest.importorskip("jax")
pytest.importorskip("ray.train")

JAX = {"KERAS_BACKEND": "jax", "XLA_FLAGS": QUICKLY_COMPILED}
# The workers use JAX whatever the program uses.
RAY = {
    "KERAS_BACKEND": "tensorflow",
    "XLA_FLAGS": QUICKLY_COMPILED,
    "RAY_DEDUP_LOGS": "0",
    # By default, Ray's workers wait for all other processes.
    "RAY_worker_niceness": "0",
}
WORKERS = ("--ray=local", "--workers=2")
# Mixup mixes within each process's part of a batch.
PLAIN = "--plain"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), count=12)


@pytest.fixture(scope="module")
def one_process(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    finished(start(images, folder, PLAIN, environment=JAX))
    return folder


def losses(folder):
    rows = training.Run(folder, resume=True).history()
    return [[row["loss"], row["val_loss"]] for row in rows]


def weights(folder):
    model = keras.models.load_model(folder / "last.keras")
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


def assert_equal_runs(folder, other):
    np.testing.assert_allclose(losses(folder), losses(other), rtol=1e-5)
    for a, b in zip(weights(folder), weights(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_run_with_a_killed_worker_ends_as_that_of_one_process(
    images, one_process, tmp_path
):
    folder, printed = tmp_path / "run", []
    process = start(images, folder, PLAIN, *WORKERS, environment=RAY)
    reader = threading.Thread(target=lambda: printed.extend(process.stdout))
    reader.start()
    while not list(folder.glob("resume-*.keras")):
        assert process.poll() is None, "".join(printed)
        time.sleep(0.02)
    workers = ray_cluster.processes("ray::RayTrainWorker")
    assert len(workers) == 2
    os.kill(workers[-1], signal.SIGKILL)
    status = process.wait(timeout=300)
    reader.join()
    printed = "".join(printed)
    assert status == 0, printed
    assert printed.count("All workers start again") == 1
    assert printed.count("Epoch 1/3") == 1  # it was not computed again
    assert_equal_runs(folder, one_process)


def test_an_error_of_one_worker_ends_the_others_and_is_not_repeated(
    images, one_process
):
    process = start(images, one_process, PLAIN, *WORKERS, environment=RAY)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    last = output.splitlines()[-1]
    assert last.startswith("train.py: ") and "Continue it with --resume" in last
    assert "start again" not in output


def test_a_cluster_that_is_too_small_is_refused():
    with ray_cluster.started(cpus=1):
        with pytest.raises(
            ValueError, match="2 workers with 1 CPUs .* Received: a Ray cluster with 1"
        ):
            training.run_with_ray(print, workers=2)
        with pytest.raises(ValueError, match="need 1 GPUs. Received: a .* with 0"):
            training.run_with_ray(print, workers=1, gpus_per_worker=1)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`workers` must be .* Received: workers=0"):
        training.run_with_ray(print, workers=0)
