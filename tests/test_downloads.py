"""Published weights are downloaded, checked, converted once and cached."""

import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import golden
import huggingface_hub
import pytest
from command_line import run
from hub_client import loopback, pointed_at
from image_folders import write_image
from loopback_hub import COMMIT

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, conversion, repository, zoo
from keras_cvt._utils import progress
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


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Return a function that records the hashes of some files, as the package does."""

    def write(*names, revision=COMMIT, content=None):
        hashes = {
            name: hashlib.sha256(content or FILES[name].read_bytes()).hexdigest()
            for name in names
        }
        known = {RECORD.repo: {"revision": revision, "sha256": hashes}}
        path = tmp_path / "hub_files.json"
        path.write_text(json.dumps(known))
        monkeypatch.setenv(zoo.HUB_FILES, str(path))

    return write


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
    monkeypatch.setattr(zoo, "known_files", lambda: {RECORD.repo: known})
    with pytest.raises(CheckpointError, match="0" * 64):
        sources.fetch(RECORD)
    assert not sources.cache_folder().exists()


def test_only_recorded_files_are_downloaded(hub, record):
    """A safer file whose hash is not known does not take the place of a known one."""
    serve(hub, *FILES)
    record("tf_model.h5", "pytorch_model.bin")
    assert "stage2.cls_token" in read_checkpoint(sources.fetch(RECORD))
    downloaded = {name for method, name in hub.requests if method == "GET"}
    assert downloaded & set(FILES) == {"tf_model.h5"}


def test_the_refusal_of_a_changed_file_names_the_way_out(hub, record):
    serve(hub, "tf_model.h5")
    record("tf_model.h5", content=b"another")
    way_out = f"hf://{RECORD.repo}@main"
    with pytest.raises(CheckpointError, match=f"tf_model.h5.*own risk.*'{way_out}'"):
        sources.resolve(RECORD.name)
    assert "stage2.cls_token" in sources.resolve(way_out).state


def test_a_mirror_without_the_recorded_commit_is_a_clear_error(hub, record):
    serve(hub, "tf_model.h5")
    record("tf_model.h5", revision="f" * 40)
    with pytest.raises(FileNotFoundError, match=f"f{{40}}.*{zoo.HUB_FILES}.*@main"):
        sources.resolve(RECORD.name)


def test_a_copy_of_a_published_file_is_recognised(record, tmp_path, caplog):
    """What lies beside it says 224 pixels and nothing of QuickGELU."""
    record("tf_model.h5")
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "renamed.h5").write_bytes(FILES["tf_model.h5"].read_bytes())
    wrong = {"size": 48, "crop_pct": 0.5, "image_processor_type": "ConvNextProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(wrong))
    found = sources.resolve(folder / "renamed.h5")
    assert found.record == RECORD and found.source == RECORD.name
    assert found.activation == "quick_gelu"
    assert found.eval_transform == RECORD.eval_transform
    assert not caplog.records
    with pytest.raises(CheckpointError, match=f"Received: {RECORD.name}"):
        keras_cvt.CvT(OTHER, weights=folder / "renamed.h5")


def test_an_image_size_that_the_two_files_disagree_on_is_a_warning(tmp_path, caplog):
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(FILES["model.safetensors"].read_bytes())
    given = json.loads((CHECKPOINTS / "hf_pt" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**given, "image_size": 384}))
    processor = {"size": {"shortest_edge": 224}, "crop_pct": 0.875}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert sources.resolve(folder).eval_transform.image_size == (224, 224)
    assert "224 x 224 pixels, but config.json says image_size=384" in caplog.text


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
    monkeypatch.setattr(zoo, "known_files", lambda: recorded)
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


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """A client whose Hub nobody answers for."""
    with pointed_at("http://127.0.0.1:9", tmp_path, monkeypatch):
        yield


def test_without_a_network_one_error_says_so_within_seconds(no_network):
    started = time.monotonic()
    with pytest.raises(ConnectionError) as caught:
        keras_cvt.CvT13(weights="imagenet")
    assert time.monotonic() - started < 15
    message = str(caught.value)
    assert "The Hub cannot be reached (http://127.0.0.1:9, ConnectError: " in message
    # What to do: a mirror, or the file from elsewhere.
    assert "HF_ENDPOINT" in message and "weights='path/to/checkpoint'" in message
    assert f"http://127.0.0.1:9/{RECORD.repo}/tree/" in message
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://hub.invalid"])
def test_without_a_network_a_program_prints_one_traceback(tmp_path, endpoint):
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "KERAS_HOME": str(tmp_path / "keras"),
    }
    program = "import keras_cvt\nkeras_cvt.CvT13()"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ConnectionError: The Hub cannot be reached ({endpoint}, ")
    # huggingface_hub logs each attempt of its own.
    assert "thrown while requesting" not in done.stderr
    assert "Retrying" not in done.stderr


def test_a_hub_that_answers_at_the_second_attempt_is_reached(hub, monkeypatch):
    from huggingface_hub import constants

    serve(hub, "model.safetensors")
    waited = []

    def wait(seconds):
        waited.append(seconds)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )

    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(client.time, "sleep", wait)
    assert client.download_checkpoint(RECORD.repo).name == "model.safetensors"
    assert waited == [1.0]


def test_offline_mode_is_named(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="cannot be reached .HF_HUB_OFFLINE is s"):
        client.download_checkpoint(RECORD.repo)
    assert not hub.requests


def test_the_command_line_says_in_one_line_that_there_is_no_network(
    no_network, tmp_path
):
    write_image(tmp_path / "image.png")
    status, _, said = run("predict", tmp_path / "image.png")
    assert status == 1 and len(said.splitlines()) == 1
    assert said.startswith("keras-cvt: The Hub cannot be reached")
    assert "pass its path: --weights path/to/checkpoint." in said
    status, _, said = run("convert", "cvt13/imagenet", tmp_path / "x.keras")
    assert status == 1 and "pass its path: path/to/checkpoint." in said


@pytest.mark.skipif(
    "tqdm_class" not in inspect.signature(huggingface_hub.hf_hub_download).parameters,
    reason="this huggingface_hub shows its own progress bar",
)
def test_the_progress_of_a_download_is_lines_in_a_file(hub, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    serve(hub, "model.safetensors")
    client.download_checkpoint(RECORD.repo)
    said = capsys.readouterr().err
    assert re.search(r"model.safetensors: .* of 610kB, .* left$", said, re.M), said
    assert "\r" not in said and "\x1b" not in said


def test_the_progress_of_a_short_download_is_no_line(hub, capsys):
    serve(hub, "model.safetensors")
    client.download_checkpoint(RECORD.repo)
    assert capsys.readouterr().err == ""
