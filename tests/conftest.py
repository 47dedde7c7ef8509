"""What all tests share: order, garbage, times, and the record of the Hub's files."""

import gc
import os
from pathlib import Path

import pytest

# Servers on the loopback have small networks in the place of the published ones, whose
# commits and hashes the package records. Other processes inherit this.
os.environ["KERAS_CVT_HUB_FILES"] = str(Path(__file__).parent / "data/hub_files.json")

# They take minutes. First, so that no process works on one of them alone at the end:
# with `--dist loadfile --no-loadscope-reorder`, each process takes the next file.
LONG = (
    "test_notebooks.py",
    "test_readme.py",
    "test_docs.py",
    "test_export.py",
    "test_resume.py",
    "test_fastest.py",
    "test_learning.py",
    "test_example.py",
    "test_release.py",
    "test_push_and_load.py",
    "test_ray_train.py",
    "test_distribution.py",
    "test_dense_examples.py",
    "test_ray_data.py",
    "test_serving.py",
    "test_web_browser.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session", autouse=True)
def short_measurements():
    """Time each file for an instant: no test depends on a time."""
    from keras_cvt.deploy import verification

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "_LEAST_SECONDS", 0.02)
        yield


@pytest.fixture(scope="module", autouse=True)
def frozen_objects():
    """Take what is alive before a file's tests out of Python's garbage collection.

    Keras collects the whole garbage for each layer that it quantizes, and what the
    tests import and earlier files leave are millions of objects: with them, a test of
    a small network takes a minute.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
