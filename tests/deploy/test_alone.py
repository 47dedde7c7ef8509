"""Exported files compute the same without keras_cvt, in a process of their own."""

import os
import subprocess
import sys

import export_worker
import networks
import numpy as np
import pytest
import run_alone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with every projection in every format, and what each computed."""
    folder = tmp_path_factory.mktemp("alone")
    export_worker.run(folder, "projections")
    return folder


@pytest.fixture(scope="module", params=run_alone.FILES)
def file(request, folder):
    """Return the name of the files that a clean process has run."""
    command = [sys.executable, run_alone.__file__, str(folder), request.param]
    # Not where the tests find keras_cvt.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return request.param


@pytest.mark.parametrize("network", networks.PROJECTIONS)
def test_every_projection_runs_without_keras_cvt(folder, file, network):
    place = folder / str(list(networks.PROJECTIONS).index(network))
    expected, found = np.load(place / "expected.npy"), np.load(place / f"{file}.npy")
    assert found.shape == expected.shape == (1, 10)
    np.testing.assert_allclose(found, expected, atol=2e-5)
