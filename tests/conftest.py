"""The order of the test files, and the record of the Hub's files."""

import os
from pathlib import Path

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
    "test_dense_examples.py",
    "test_ray_data.py",
    "test_serving.py",
    "test_web_browser.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)
