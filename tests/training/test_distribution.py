"""Several devices and processes compute what one device computes."""

import os
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import pytest
from image_folders import write_folder

from keras_cvt import training

pytest.importorskip("tensorflow")

WORKER = Path(__file__).with_name("distributed_worker.py")
TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    # 42 validation images: 4 devices leave out 2, 2 devices none. The last batch is
    # smaller than the others.
    return write_folder(tmp_path_factory.mktemp("images"), count=21)


def start(backend, kind, images, output, *options, **environment):
    return subprocess.Popen(
        [sys.executable, WORKER, kind, images, output, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend, **environment},
    )


def finished(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output


def variables(folder):
    model = keras.models.load_model(folder / "last.keras")
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}


def difference(a, b, part=""):
    """Return the largest difference of the variables with this in their paths."""
    a, b = variables(a), variables(b)
    assert a.keys() == b.keys()
    return max(np.abs(a[path] - b[path]).max() for path in a if part in path)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.skipif(
    version("jax").startswith("0.4."),
    reason='jax 0.4 can end two processes that start at once ("EnforceNotMet")',
)
def test_two_jax_processes_with_two_devices_each_equal_one_device(images, tmp_path):
    finished(start("jax", "none", images, tmp_path / "one", "average"))
    network = {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{free_port()},127.0.0.1",
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        **TWO_DEVICES,
    }
    finished(
        *(
            start(
                "jax",
                "data_parallel",
                images,
                tmp_path / "four",
                "average",
                KERAS_DISTRIBUTION_PROCESS_ID=str(i),
                **network,
            )
            for i in range(2)
        )
    )
    assert difference(tmp_path / "one", tmp_path / "four") < 1e-5
    log = (tmp_path / "four" / "log.csv").read_text().splitlines()
    assert len(log) == 3  # a header and two epochs, written once


def test_two_mirrored_replicas_equal_one_where_batch_norm_is_frozen(images, tmp_path):
    for kind in ("none", "mirrored"):
        options = "freeze", "average"
        finished(start("tensorflow", kind, images, tmp_path / kind, *options))
    assert difference(tmp_path / "none", tmp_path / "mirrored") < 1e-5


def test_batch_norm_of_mirrored_replicas_sees_their_share_of_the_batch(
    images, tmp_path
):
    for kind in ("none", "mirrored"):
        finished(start("tensorflow", kind, images, tmp_path / kind))
    both = tmp_path / "none", tmp_path / "mirrored"
    # Means and variances of normalised images are near 1; each replica normalises by
    # its half of the batch, and the replicas' statistics are averaged.
    assert 1e-3 < difference(*both, "moving_") < 0.1
    assert difference(*both, "kernel") < 0.02


def test_devices_that_cannot_split_the_batch_are_refused():
    program = (
        "from keras_cvt import training\n"
        "with training.distribute('data_parallel', 7): pass"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax", **TWO_DEVICES},
    )
    assert process.returncode
    assert "split evenly over the 2 devices. Received: batch_size=7" in process.stderr


def test_each_kind_needs_its_backend():
    with pytest.raises(ValueError, match="set KERAS_BACKEND=jax"):
        with training.distribute("data_parallel", 8):
            pass
    with pytest.raises(ValueError, match="must be one of .* Received: kind='horovod'"):
        with training.distribute("horovod", 8):
            pass
