"""Published weights are downloaded, checked, converted once and cached."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import golden
import pytest
from command_line import run
from hub_client import loopback
from image_folders import write_image
from loopback_hub import COMMIT

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, conversion, repository, zoo
from keras_cvt.checkpoints import CheckpointError, sources
from keras_cvt.checkpoints.readers import read_checkpoint
from keras_cvt.repository import client

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
FILES = {
    "model.safetensors": CHECKPOINTS / "hf_pt" / "model.safetensors",
    "tf_model.h5": CHECKPOINTS / "hf_tf" / "tf_model.h5",
    "pytorch_model.bin": CHECKPOINTS / "hf_pt" / "pytorch_model.bin",
}
RECORD = zoo.find("cvt13/imagenet")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server on the loopback for the client of the Hub, with an empty cache."""
    with loopback(tmp_path, monkeypatch, {RECORD.repo: {}}) as server:
        yield server


def serve(hub, *names):
    hub.repos[RECORD.repo] = {name: FILES[name].read_bytes() for name in names}


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (tuple(FILES), "model.safetensors"),
        (("tf_model.h5", "pytorch_model.bin"), "tf_model.h5"),
        (("pytorch_model.bin",), "pytorch_model.bin"),
    ],
)
def test_the_safest_file_of_a_repository_is_taken(hub, offered, taken):
    serve(hub, *offered)
    assert client.download_checkpoint(RECORD.repo).name == taken


OTHER = CvTConfig((StageConfig(8, 1, 1, 7, 4, 2, cls_token=True),))


@pytest.mark.parametrize("weights", ["imagenet", RECORD.name, f"hf://{RECORD.repo}"])
def test_published_weights_of_another_network_are_not_downloaded(
    hub, tmp_path, weights
):
    serve(hub, "model.safetensors")
    message = "Expected weights of the network, which has [0-9,]+ parameters with 1000"
    with pytest.raises(ValueError, match=f"{message} .*Received: {RECORD.name}"):
        keras_cvt.CvT(OTHER, weights=weights)
    with pytest.raises(ValueError, match=message):
        conversion.convert(weights, tmp_path / "out.keras", OTHER)
    OTHER.to_json(tmp_path / "config.json")
    write_image(tmp_path / "image.png")
    given = ("--model", tmp_path / "config.json", "--weights", weights)
    status, _, said = run("predict", tmp_path / "image.png", *given)
    assert status == 1 and re.search(message, said)
    assert not hub.requests


def test_the_second_fetch_sends_no_request(hub):
    serve(hub, "model.safetensors")
    first = sources.fetch(RECORD)
    asked = sum(hub.requests.values())
    assert sources.fetch(RECORD) == first
    assert sum(hub.requests.values()) == asked


def test_the_converted_file_is_in_the_official_layout(hub):
    serve(hub, "tf_model.h5")
    assert "stage2.cls_token" in read_checkpoint(sources.fetch(RECORD))


def test_a_flipped_bit_in_the_converted_file_is_detected(hub, caplog):
    serve(hub, "model.safetensors")
    path = sources.fetch(RECORD)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert sources.fetch(RECORD).read_bytes() == good
    assert "damaged" in caplog.text


def test_the_remains_of_a_killed_conversion_are_not_used(hub):
    serve(hub, "model.safetensors")
    path = sources.fetch(RECORD)
    good = path.read_bytes()
    path.unlink()
    (path.parent / ".converting-x").write_bytes(good[: len(good) // 2])
    path.write_bytes(good[: len(good) // 2])
    assert sources.fetch(RECORD).read_bytes() == good


def test_a_damaged_download_is_repeated(hub):
    serve(hub, "model.safetensors")
    cached = client.download_checkpoint(RECORD.repo)
    data = cached.read_bytes()
    cached.write_bytes(data[: len(data) // 2])
    assert "stage2.cls_token" in read_checkpoint(sources.fetch(RECORD))


def test_the_error_for_a_damaged_download_without_a_network_names_it(hub, monkeypatch):
    from huggingface_hub import constants

    serve(hub, "model.safetensors")
    cached = repository.download_checkpoint(RECORD.repo)
    cached.write_bytes(cached.read_bytes()[:1000])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=f"{RECORD.repo} is damaged.*HF_HUB_OFFLINE"):
        sources.fetch(RECORD)


def test_a_download_that_breaks_off_is_resumed(hub):
    serve(hub, "model.safetensors")
    hub.cut_after["model.safetensors"] = 100_000
    try:
        path = sources.fetch(RECORD)
    except OSError as error:
        assert "next call resumes" in str(error)
        path = sources.fetch(RECORD)
    assert "stage2.cls_token" in read_checkpoint(path)


def test_a_file_that_does_not_match_its_recorded_hash_is_refused(hub, monkeypatch):
    serve(hub, "model.safetensors")
    known = {"revision": COMMIT, "sha256": {"model.safetensors": "0" * 64}}
    monkeypatch.setattr(zoo, "_known_files", lambda: {RECORD.repo: known})
    with pytest.raises(CheckpointError, match="0" * 64):
        sources.fetch(RECORD)
    assert not sources.cache_folder().exists()


def test_recorded_files_are_pinned_and_checked(hub, monkeypatch, tmp_path):
    serve(hub, "model.safetensors", "tf_model.h5")
    asset = tmp_path / "hub_files.json"
    script = Path(__file__).parent.parent / "conversion" / "record_hub_files.py"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    subprocess.run(
        [sys.executable, script, "--output", asset, "--repos", RECORD.repo],
        env=environment,
        check=True,
        timeout=120,
    )
    recorded = json.loads(asset.read_text())
    assert recorded[RECORD.repo]["revision"] == COMMIT
    assert set(recorded[RECORD.repo]["sha256"]) == {"model.safetensors", "tf_model.h5"}
    monkeypatch.setattr(zoo, "_known_files", lambda: recorded)
    assert COMMIT in sources.fetch(RECORD).name


@pytest.mark.parametrize(
    ("status", "error"), [(401, OSError), (403, OSError), (404, OSError)]
)
def test_the_error_for_a_refused_download_names_the_repository(hub, status, error):
    serve(hub, "model.safetensors")
    for name in FILES:
        hub.status[name] = status
    with pytest.raises(error, match=RECORD.repo):
        sources.fetch(RECORD)


@pytest.mark.parametrize("repo_id", ["a/b/c", "../x", "x", "a/..", ""])
def test_an_invalid_repository_name_is_refused(repo_id):
    with pytest.raises(ValueError, match="hf://org/repo"):
        client.download_checkpoint(repo_id)


@pytest.mark.parametrize("name", FILES)
def test_cached_files_are_found_without_a_network(hub, name, monkeypatch):
    serve(hub, name)
    first = client.download_checkpoint(RECORD.repo)
    assert client.download_optional(RECORD.repo, "config.json") is None
    hub.repos.clear()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert client.download_checkpoint(RECORD.repo) == first
    assert client.download_optional(RECORD.repo, "config.json") is None
    with pytest.raises(OSError, match="cannot be reached.*never_asked"):
        client.download_optional(RECORD.repo, "never_asked.json")


@pytest.mark.parametrize("status", [403, 503])
def test_no_other_file_is_downloaded_if_the_safest_one_fails(hub, status, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    serve(hub, *FILES)
    hub.status["model.safetensors"] = status
    with pytest.raises(OSError, match="model.safetensors"):
        client.download_checkpoint(RECORD.repo)
    assert not hub.requests["GET", "pytorch_model.bin"]


def test_a_cache_that_cannot_be_written_costs_one_warning(
    hub, tmp_path, monkeypatch, caplog
):
    """A container's home is often read-only. Nobody can write below a plain file."""
    serve(hub, "model.safetensors")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file" / "keras"))
    assert sources.fetch(RECORD).is_file()
    caplog.clear()
    assert "stage2.cls_token" in sources.resolve(RECORD.name).state
    assert [r.message for r in caplog.records if "cannot be kept" in r.message]
    assert len(caplog.records) == 1
