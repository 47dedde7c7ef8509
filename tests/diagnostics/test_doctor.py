"""`keras-cvt doctor`, and what it finds."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import documented
import golden
import keras
import numpy as np
import pytest
from command_line import run
from hub_client import loopback
from image_folders import write_image
from loopback_hub import COMMIT

import keras_cvt
from keras_cvt import diagnostics, zoo
from keras_cvt.deploy import formats
from keras_cvt.diagnostics import environment, published
from keras_cvt.repository.listing import checkpoint_hashes


def found(findings, name):
    return next(finding for finding in findings if finding.name == name)


@pytest.mark.any_backend
def test_a_working_environment_has_no_problem():
    findings = [*diagnostics.examine(), diagnostics.check_network()]
    assert not [finding for finding in findings if finding.status == "problem"]
    assert found(findings, "Keras's backend").value == keras.config.backend()
    assert found(findings, "keras").value == metadata.version("keras")
    assert {f.name for f in findings if f.topic == "formats"} == {
        record.title for record in formats.FORMATS.values()
    }
    assert {f.value for f in findings if f.topic == "formats"} == {"ready"}
    assert "CPU" in found(findings, "devices").value.upper()


@pytest.mark.any_backend
def test_a_network_that_computes_something_else_is_a_problem(monkeypatch):
    weight = diagnostics.network.weight
    monkeypatch.setattr(
        diagnostics.network,
        "weight",
        lambda key, shape: weight(key, shape).astype("float16").astype("float32"),
    )
    finding = diagnostics.check_network()
    assert finding.status == "problem" and "reduced precision" in finding.advice


def test_the_known_logits_are_those_of_the_official_code():
    path = Path(keras_cvt.__file__).parent / "assets" / "known_logits.json"
    expected, _ = golden.load("tiny_base")
    kept = np.array(json.loads(path.read_text())["tiny_base"], "float32")
    np.testing.assert_array_equal(kept, expected["logits"])


def test_the_command_prints_json_and_a_table():
    status, printed, _ = run("doctor", "--json")
    report = json.loads(printed)
    assert status == 0 and report["problems"] == 0
    assert {f["topic"] for f in report["findings"]} >= {"versions", "network"}
    status, printed, _ = run("doctor")
    assert status == 0 and printed.endswith("No problems.\n")
    assert "logits against the official code" in printed


def test_photo_without_weights_is_refused():
    status, _, errors = run("doctor", "--photo", "x.jpg")
    assert status == 1 and "--weights" in errors


def test_a_backend_that_is_missing_is_named(tmp_path):
    """In a process that cannot import JAX, which Keras is told to use."""
    (tmp_path / "jax.py").write_text("raise ImportError('no jax here')")
    done = subprocess.run(
        [sys.executable, "-c", "import _keras_cvt_command as c; print(c.main())"]
        + ["doctor"],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.endswith("Problems: 1.\n1\n"), done.stdout + done.stderr
    assert "jax cannot be used: ImportError: no jax here" in done.stdout
    assert 'pip install "keras_cvt[jax]"' in done.stdout


def test_what_raises_an_error_is_a_problem_beside_the_other_findings(monkeypatch):
    def fail():
        raise RuntimeError("no device")

    monkeypatch.setitem(environment._DEVICES, keras.config.backend(), fail)
    findings = diagnostics.examine()
    assert found(findings, "error").value == "RuntimeError: no device"
    assert found(findings, "keras").status == "ok"


def test_switches_and_reduced_precision_are_notes(monkeypatch):
    monkeypatch.setenv("TF_SET_ONEDNN_FPMATH_MODE", "BF16")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:secret@mirror.example")
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        findings = diagnostics.examine()
    finally:
        keras.config.set_dtype_policy(policy)
    assert found(findings, "HF_HUB_OFFLINE").status == "ok"
    endpoint = found(findings, "HF_ENDPOINT")
    assert (endpoint.value, endpoint.status) == ("https://***@mirror.example", "note")
    switch = found(findings, "TF_SET_ONEDNN_FPMATH_MODE")
    assert (switch.value, switch.status) == ("BF16", "note")
    assert found(findings, "precision").status == "note"


def test_missing_packages_are_named(monkeypatch):
    version = metadata.version

    def without(name):
        if name in ("openvino", "tensorflow", "tensorflow-cpu"):
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "h5py" else version(name)

    monkeypatch.setattr(metadata, "version", without)
    findings = diagnostics.examine()
    assert found(findings, "h5py").status == "problem"
    assert found(findings, "h5py").value == "0.1, which is not >=3.11"
    assert found(findings, "openvino").value == "lacks openvino"
    wanted = found(findings, "OpenVINO")
    assert wanted.value == "lacks [tensorflow], [openvino]"
    assert wanted.advice == '`pip install "keras_cvt[tensorflow,openvino]"`'


def test_the_extras_are_those_of_the_package():
    declared = set(metadata.metadata("keras_cvt").get_all("Provides-Extra"))
    named = {*environment._PURPOSES, *environment._LEFT_OUT}
    assert named <= declared
    assert declared - named == set(formats.FORMATS) & declared


def test_a_cache_that_cannot_be_written_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file" / "home"))
    finding = found(diagnostics.examine(), "converted weights")
    assert finding.status == "problem" and "KERAS_HOME" in finding.advice


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with small networks in the place of the published ones."""
    for name in zoo.MODELS:
        monkeypatch.setitem(zoo.MODELS, name, documented.SMALL)
    with loopback(tmp_path, monkeypatch) as server:
        documented.write_published(server, tmp_path / "published")
        yield server


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Return a function that records what a server has, but for one repository."""

    def write(hub, **changed):
        known = {}
        for weights in zoo.WEIGHTS[:-1]:
            revision, hashes = checkpoint_hashes(weights.repo)
            known[weights.repo] = {"revision": revision, "sha256": hashes}
        known[zoo.WEIGHTS[0].repo] |= changed
        path = tmp_path / "record.json"
        path.write_text(json.dumps(known))
        monkeypatch.setenv(zoo.HUB_FILES, str(path))

    return write


def test_files_on_the_hub_are_compared_with_the_record(hub, record):
    record(hub)
    findings = list(diagnostics.check_repositories())
    assert [f.name for f in findings] == [w.name for w in zoo.WEIGHTS]
    assert {f.status for f in findings[:-1]} == {"ok"}
    assert f"at {COMMIT[:12]}: model.safetensors as recorded" in findings[0].value
    # Its hash is printed, so that somebody can record it.
    digest = checkpoint_hashes(zoo.WEIGHTS[-1].repo)[1]["model.safetensors"]
    assert findings[-1].status == "note" and digest in findings[-1].advice


def test_a_changed_file_on_the_hub_is_a_problem(hub, record):
    record(hub, sha256={"model.safetensors": "0" * 64, "tf_model.h5": "1" * 64})
    first, *others = diagnostics.check_repositories()
    assert first.status == "problem" and "2 of 2 files differ" in first.value
    assert "tf_model.h5 is not there, expected 111" in first.advice
    assert {f.status for f in others} == {"ok", "note"}


def test_a_missing_commit_is_a_problem(hub, record):
    record(hub, revision="f" * 40)
    first, *_ = diagnostics.check_repositories()
    assert (first.status, first.value) == ("problem", "not compared")
    assert "f" * 40 in first.advice


def test_without_a_network_one_problem_is_enough(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    (finding,) = diagnostics.check_repositories()
    assert finding.status == "problem" and "HF_ENDPOINT" in finding.advice


@pytest.fixture
def answer(hub, tmp_path, monkeypatch):
    """Return a function that makes the small network's answer the known one."""
    write_image(tmp_path / "photo.png", size=(300, 260))
    hub.repos["photos/known"] = {"photo.png": (tmp_path / "photo.png").read_bytes()}
    model = keras_cvt.CvT13(
        weights="imagenet", activation="gelu", classifier_activation=None
    )
    image = keras_cvt.preprocess_input([tmp_path / "photo.png"], model)
    logits = model.predict(image, verbose=0)[0, :3]

    def know(error=0.0):
        known = published.KnownLogits(
            "cvt13/imagenet",
            "gelu",
            f"{hub.url}/photos/known/resolve/main/photo.png",
            tuple(logits + np.array([error, 0, 0])),
            1e-4,
        )
        monkeypatch.setattr(published, "KNOWN", known)

    return know


def test_known_logits_are_compared(answer, hub, tmp_path):
    answer()
    assert diagnostics.check_known_logits().status == "ok"
    assert diagnostics.check_known_logits(tmp_path / "photo.png").status == "ok"
    answer(error=0.1)
    wrong = diagnostics.check_known_logits()
    assert wrong.status == "problem" and "Received: [" in wrong.advice
    hub.repos["photos/known"] = {}
    lacking = diagnostics.check_known_logits()
    assert lacking.status == "problem" and "--photo" in lacking.advice
    hub.repos["photos/known"] = {"photo.png": b"no image"}
    assert diagnostics.check_known_logits().status == "problem"


def test_the_command_asks_the_hub(hub, record, answer):
    record(hub)
    answer()
    status, printed, _ = run("doctor", "--weights", "--json")
    topics = [f["topic"] for f in json.loads(printed)["findings"]]
    assert status == 0 and topics.count("published weights") == len(zoo.WEIGHTS) + 1
    answer(error=0.1)
    status, printed, _ = run("doctor", "--weights")
    assert status == 1 and printed.endswith("Problems: 1.\n")
