"""Exported files compute the same in a process without keras_cvt."""

import clean_process
import export_worker
import networks
import numpy as np
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with every projection in every format, and its logits."""
    folder = tmp_path_factory.mktemp("projections")
    export_worker.run(folder, "projections")
    return folder


@pytest.fixture(scope="module", params=clean_process.FILES)
def file(request, folder):
    """Return the name of the files, which ran in a clean process."""
    clean_process.run(folder, request.param)
    return request.param


@pytest.mark.parametrize("network", networks.PROJECTIONS)
def test_every_projection_runs_without_keras_cvt(folder, file, network):
    place = folder / str(list(networks.PROJECTIONS).index(network))
    expected, found = np.load(place / "expected.npy"), np.load(place / f"{file}.npy")
    assert found.shape == expected.shape == (1, 10)
    np.testing.assert_allclose(found, expected, atol=2e-5)
