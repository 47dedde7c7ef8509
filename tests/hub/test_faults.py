"""After any failure of a push, the repository is as it was or complete.

Counted: 429, 500 and a broken connection at each of 8 steps, twice, then success (24);
401, 403, 404, 409, 429 and 500 at each of 6 steps, always (36); a commit whose answer
is lost; kill -9 between upload and commit; a full disk; two pushes at once; an edit
during the push; offline; no server; no token; a wrong token. Nothing is lost in any of
them.
"""

import base64
import errno
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import hub_models
import pytest
from hub_client import TOKEN, environment, loopback
from loopback_hub import CUT, LOST

from keras_cvt import hub
from keras_cvt._utils import files
from keras_cvt.hub import upload
from keras_cvt.repository import integrity

REPO = "me/flowers"
# The steps of a first push, in order.
WRITING = ("info", "create", "validate", "preupload", "batch", "upload", "commit")
TEMPORARY = (429, 500)
REFUSED = (401, 403, 404, 409)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("folder")
    hub.write_folder(hub_models.classifier(), path, repo_id=REPO)
    return path


@pytest.fixture
def server(tmp_path, monkeypatch):
    # The waits between attempts would only make the tests slow.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with loopback(tmp_path, monkeypatch) as server:
        yield server


def assert_complete(server, folder):
    files = server.repos[REPO]
    for name in integrity.file_names(folder):
        assert files[name] == (folder / name).read_bytes(), name


def assert_nothing_pushed(server):
    assert set(server.repos.get(REPO, {})) <= {".gitattributes"}
    assert len(server.history.get(REPO, [1])) == 1


@pytest.mark.parametrize("fault", [*TEMPORARY, CUT])
@pytest.mark.parametrize("step", [*WRITING, "verify"])
def test_a_temporary_failure_is_tried_again(server, folder, step, fault):
    server.fail(step, fault, times=2)
    hub.upload_folder(folder, REPO)
    assert_complete(server, folder)
    assert len(server.history[REPO]) == 2


@pytest.mark.parametrize("status", [*REFUSED, *TEMPORARY])
@pytest.mark.parametrize("step", WRITING[1:])
def test_a_refusal_is_one_sentence_and_changes_nothing(
    server, folder, step, status, caplog
):
    server.fail(step, status)
    with caplog.at_level(logging.INFO), pytest.raises((OSError, ValueError)) as error:
        hub.upload_folder(folder, REPO)
    assert REPO in str(error.value) and "\n" not in str(error.value)
    assert TOKEN not in str(error.value) + caplog.text
    assert error.value.__cause__ is None and error.value.__suppress_context__
    assert_nothing_pushed(server)
    server.heal()
    hub.upload_folder(folder, REPO)
    assert_complete(server, folder)


def test_a_commit_whose_answer_is_lost_is_not_made_twice(server, folder):
    server.fail("commit", LOST, times=1)
    report = hub.upload_folder(folder, REPO)
    assert len(server.history[REPO]) == 2
    assert report.commit == server.head(REPO)
    assert_complete(server, folder)


def test_files_that_arrived_before_a_failure_are_not_sent_again(server, folder):
    server.fail("commit", 403)
    with pytest.raises(PermissionError):
        hub.upload_folder(folder, REPO)
    sent = server.steps["upload"]
    server.heal()
    hub.upload_folder(folder, REPO)
    assert server.steps["upload"] == sent == 2


def test_an_earlier_model_stays_until_the_new_one_is_complete(server, folder, tmp_path):
    hub.upload_folder(folder, REPO)
    before = dict(server.repos[REPO])
    other = tmp_path / "other"
    hub.write_folder(hub_models.classifier("quick_gelu"), other, repo_id=REPO)
    server.fail("commit", 500)
    with pytest.raises(OSError, match="status 500"):
        hub.upload_folder(other, REPO)
    assert server.repos[REPO] == before


PUSH = """
import sys
from keras_cvt import hub
hub.upload_folder(sys.argv[1], "me/flowers")
"""


def test_kill_between_upload_and_commit_leaves_nothing_and_can_be_repeated(
    server, folder, tmp_path
):
    command = [sys.executable, "-c", PUSH, folder]
    process = subprocess.Popen(
        command,
        env=environment(server, tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    killed = threading.Event()

    def kill():
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed.set()

    server.before["commit"] = kill
    # The server still handles the request of a killed client: the fault drops it.
    server.fail("commit", CUT)
    assert killed.wait(120)
    assert_nothing_pushed(server)
    sent = server.steps["upload"]
    server.heal()
    hub.upload_folder(folder, REPO)
    assert_complete(server, folder)
    assert server.steps["upload"] == sent


def test_two_pushes_at_once_are_two_whole_commits(server, folder, tmp_path):
    other = tmp_path / "other"
    hub.write_folder(hub_models.classifier("quick_gelu"), other, repo_id=REPO)
    # Both have read the same head when the first commits.
    barrier, arrivals = threading.Barrier(2, timeout=60), itertools.count()
    server.before["commit"] = lambda: next(arrivals) < 2 and barrier.wait()
    errors = []

    def push(path):
        try:
            hub.upload_folder(path, REPO)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=push, args=[path]) for path in (folder, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert len(server.history[REPO]) == 3
    for _, committed in server.history[REPO][1:]:
        weights = committed["model.safetensors"]
        assert weights in [
            (p / "model.safetensors").read_bytes() for p in (folder, other)
        ]
    assert any(
        server.repos[REPO]["config.json"] == (path / "config.json").read_bytes()
        for path in (folder, other)
    )


def test_an_edit_of_the_card_during_a_push_is_kept(server, folder):
    hub.upload_folder(folder, REPO)
    server.repos[REPO].pop("verification.json")  # so that there is a change to commit

    def edit():
        server.before.clear()
        content = server.repos[REPO]["README.md"] + b"An edit.\n"
        value = {"path": "README.md", "content": base64.b64encode(content)}
        server.commit(REPO, None, [("file", value)])

    server.before["commit"] = edit
    hub.upload_folder(folder, REPO)
    assert server.repos[REPO]["README.md"].endswith(b"An edit.\n")
    assert "verification.json" in server.repos[REPO]


def test_a_full_disk_pushes_nothing(server, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        hub.push(hub_models.classifier(), REPO)
    assert not server.steps


def test_without_a_token_no_request_is_made(server, folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(PermissionError, match="HF_TOKEN"):
        hub.upload_folder(folder, REPO)
    assert not server.steps


def test_a_wrong_token_is_reported_but_not_shown(server, folder):
    with pytest.raises(PermissionError, match="does not accept the token") as error:
        hub.upload_folder(folder, REPO, token="hf_wrong")
    assert "hf_wrong" not in str(error.value)


def test_offline_mode_is_reported(server, folder, monkeypatch, tmp_path):
    command = [sys.executable, "-c", PUSH, folder]
    done = subprocess.run(
        command,
        env=environment(server, tmp_path, HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
    )
    assert "OSError: me/flowers was not pushed: HF_HUB_OFFLINE is set." in done.stderr


def test_a_missing_server_is_reported(server, folder, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="broke off or cannot be made"):
        hub.upload_folder(folder, REPO)


@pytest.mark.parametrize("repo_id", ["flowers", "a/b/c", "me/../x", "me/a b", ""])
def test_a_wrong_repository_name_is_refused_before_any_work(server, repo_id):
    with pytest.raises(ValueError, match="org/repo"):
        hub.push(None, repo_id)


def test_a_data_set_is_refused(server, folder):
    with pytest.raises(ValueError, match="one of the Hub's datasets"):
        hub.upload_folder(folder, "datasets/me/flowers")
    server.datasets.add(REPO)
    with pytest.raises(ValueError, match="is a dataset on the Hub"):
        hub.upload_folder(folder, REPO)
    assert_nothing_pushed(server)


def test_a_card_of_broken_yaml_is_neither_pushed_over_nor_lost(server, folder):
    broken = b"---\nlicense: [mit\n---\nWords.\n"
    server.repos[REPO] = {"README.md": broken}
    with pytest.raises(ValueError, match="not valid YAML"):
        hub.upload_folder(folder, REPO)
    assert server.repos[REPO] == {"README.md": broken}


def test_a_file_changed_since_the_verification_is_not_pushed(server, folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json"):
        hub.upload_folder(copy, REPO)
    assert not server.steps


def test_the_waits_grow():
    assert list(upload.WAITS) == sorted(upload.WAITS) and len(upload.WAITS) >= 3
