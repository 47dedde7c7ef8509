"""Large files are uploaded in parts: no failure at any step loses one.

Counted: 429, 500 and a broken connection at a part and at the completion, twice, then
success (6); 403 and 500 at both, always (4).
"""

import time

import hub_models
import huggingface_hub
import pytest
from hub_client import loopback
from loopback_hub import CUT
from packaging.version import Version

from keras_cvt import hub
from keras_cvt.repository import integrity

REPO = "me/flowers"
CHUNK = 100_000
# Older releases do not repeat a completion. The push starts again, with all parts.
REPEATS_COMPLETION = Version(huggingface_hub.__version__) >= Version("1.3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder")
    hub.write_folder(hub_models.classifier(), path, repo_id=REPO)
    return path


@pytest.fixture
def server(tmp_path, monkeypatch):
    # The waits between attempts would only make the tests slow.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with loopback(tmp_path, monkeypatch, chunk_size=CHUNK) as server:
        yield server


def parts_of(folder):
    """Return how many parts the folder's large files have."""
    sizes = [
        (folder / name).stat().st_size
        for name in ("model.safetensors", "model.weights.h5")
    ]
    assert min(sizes) > 2 * CHUNK
    return sum(-(-size // CHUNK) for size in sizes)


def assert_complete(server, folder):
    for name in integrity.file_names(folder):
        assert server.repos[REPO][name] == (folder / name).read_bytes(), name


def test_a_large_file_is_pushed_in_parts_and_complete(server, folder):
    hub.upload_folder(folder, REPO)
    assert server.steps["part"] == parts_of(folder)
    assert server.steps["complete"] == 2 and not server.steps["upload"]
    assert_complete(server, folder)
    assert hub.load(REPO).name == "tiny"


@pytest.mark.parametrize("fault", [429, 500, CUT])
@pytest.mark.parametrize("step", ["part", "complete"])
def test_only_a_failed_part_is_sent_again(server, folder, step, fault):
    server.fail(step, fault, times=2)
    hub.upload_folder(folder, REPO)
    assert_complete(server, folder)
    assert len(server.history[REPO]) == 2
    if step == "part" or REPEATS_COMPLETION:
        assert server.steps["part"] == parts_of(folder) + (2 if step == "part" else 0)
        assert server.steps["complete"] == 2 + (2 if step == "complete" else 0)


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize("step", ["part", "complete"])
def test_a_refusal_changes_nothing_and_the_next_push_finishes(
    server, folder, step, status
):
    server.fail(step, status)
    with pytest.raises(OSError, match=REPO):
        hub.upload_folder(folder, REPO)
    assert set(server.repos[REPO]) == {".gitattributes"}
    assert not server.lfs and REPO not in server.history
    server.heal()
    hub.upload_folder(folder, REPO)
    assert_complete(server, folder)
