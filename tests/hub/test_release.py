"""A release runs every step once, and pushes nothing that differs."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import clean_process
import golden
import hub_models
import keras
import numpy as np
import pytest
from hub_client import environment, loopback, run
from image_folders import write_folder

from keras_cvt import builders, conversion, deploy, hub, zoo
from keras_cvt.checkpoints import CheckpointError, save_checkpoint
from keras_cvt.cli import main
from keras_cvt.hub import releasing

CHECKPOINTS = golden.FOLDER.parent / "checkpoints"
OFFICIAL = CHECKPOINTS / "official_zip.pth"
REPO = "me/tiny"
DOWNLOAD = """
from huggingface_hub import snapshot_download
snapshot_download({repo!r}, local_dir={folder!r})
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    with loopback(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return golden.write_reference(folder / "golden.npz")


def config():
    return golden.config(golden.load("tiny_base")[1])


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory, reference):
    """A folder with a dry run, its arguments, and the requests that it made."""
    folder = tmp_path_factory.mktemp("dry_run")
    (folder / OFFICIAL.name).write_bytes(OFFICIAL.read_bytes())
    (folder / "photo.png").write_bytes(b"one")
    arguments = {
        "checkpoint": OFFICIAL.name,
        "repo_id": REPO,
        "folder": "out",
        "config": config(),
        "reference": reference,
        "representative": ["photo.png"],
        "dry_run": True,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with loopback(tmp_path_factory.mktemp("home"), patch) as server:
            done = hub.release(**arguments)
    assert done.commit is None
    return folder, arguments, dict(server.steps)


@pytest.fixture
def arguments(dry_run, tmp_path, monkeypatch):
    """The arguments of the dry run, whose files are copied to the current folder."""
    folder, arguments, _ = dry_run
    shutil.copytree(folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return arguments


def test_a_checkpoint_becomes_a_repository(server, tmp_path, reference):
    done = hub.release(
        OFFICIAL, REPO, tmp_path / "out", config=config(), reference=reference
    )
    assert done.commit == server.head(REPO)
    assert done.reference == "golden.npz" and done.reference_difference <= 2e-5
    readme = server.repos[REPO]["README.md"].decode()
    assert f"{done.reference_difference:.1e}" in readme
    expected, meta = golden.load("tiny_base")
    scores = hub_models.outputs(
        hub.load(REPO),
        255 * (golden.images(meta) * np.float32((0.229, 0.224, 0.225))
               + np.float32((0.485, 0.456, 0.406))),
    )  # fmt: skip
    softmax = keras.ops.convert_to_numpy(keras.ops.softmax(expected["logits"]))
    np.testing.assert_allclose(scores, softmax, rtol=0, atol=2e-5)


def test_without_a_reference_transformers_computes_the_logits(tmp_path):
    pytest.importorskip("transformers")
    done = hub.release(OFFICIAL, REPO, tmp_path / "x", config=config(), dry_run=True)
    assert done.reference == "transformers" and done.reference_difference <= 1e-4


def test_a_dry_run_writes_the_folder_and_makes_no_request(dry_run):
    folder, _, requests = dry_run
    assert (folder / "out" / "README.md").is_file() and not requests


def written_at(folder):
    """Return when each file of a folder was written, in nanoseconds."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_verified_folder_is_not_written_again(server, arguments):
    before = written_at(Path("out"))
    arguments = {**arguments, "dry_run": False}
    pushed = hub.release(**arguments)
    assert written_at(Path("out")) == before
    assert pushed.commit == server.head(REPO)
    steps = dict(server.steps)
    assert hub.release(**arguments) == pushed
    assert server.steps == steps


CHANGES = {
    "activation": {"activation": "gelu"},
    "about": {"about": hub.About(license="mit")},
    "config": {"config": config().with_overrides(activation="gelu")},
    "reference": {"reference": None},
    "tolerance": {"tolerance": 1e-3},
    "representative": {"representative": []},
    "repository": {"repo_id": "me/other"},
    "checkpoint's content": {},
    "photo's content": {},
}


@pytest.mark.parametrize("name", CHANGES)
def test_after_a_change_the_folder_is_written_again(arguments, name):
    before = written_at(Path("out"))
    hub.release(**arguments)
    assert written_at(Path("out")) == before
    if name == "checkpoint's content":
        Path(OFFICIAL.name).write_bytes(b"retrained")
        with pytest.raises(CheckpointError):
            hub.release(**arguments)
        return
    if name == "photo's content":
        Path("photo.png").write_bytes(b"another")
    changed = {**arguments, **CHANGES[name]}
    if name == "activation":
        # The reference is of the other activation, so that the comparison fails.
        with pytest.raises(conversion.ComparisonError):
            hub.release(**changed)
        return
    hub.release(**changed)
    assert written_at(Path("out")) != before


def test_a_damaged_folder_is_written_again(arguments):
    weights = Path("out", "model.safetensors")
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    hub.release(**arguments)
    assert weights.read_bytes() == good


def test_a_failed_comparison_pushes_nothing_and_is_reported(
    server, tmp_path, reference
):
    arguments = [
        "convert",
        str(CHECKPOINTS / "official_fp16.pth"),
        f"hf://{REPO}",
        *("--reference", str(reference), "--folder", str(tmp_path / "out")),
    ]
    config().to_json(tmp_path / "tiny.json")
    assert main([*arguments, "--model", str(tmp_path / "tiny.json")]) == 1
    assert not server.steps


def test_exported_files_of_a_repository_run_in_their_own_runtimes(
    server, tmp_path, reference, monkeypatch
):
    """Each is downloaded to an empty cache and run in a process without keras_cvt."""
    hub.release(
        OFFICIAL,
        REPO,
        tmp_path / "out",
        config=config(),
        reference=reference,
        exports=[
            *("saved_model", "litert", "litert_dynamic_int8", "onnx"),
            "openvino_bfloat16",
        ],
    )
    files = server.repos[REPO]
    assert "| `saved_model` |" in files["README.md"].decode()
    page = tmp_path / "pages" / "0"
    run(DOWNLOAD.format(repo=REPO, folder=str(page)), server, tmp_path / "elsewhere")
    model = hub.load(REPO)
    images = deploy.made_up_images(*model.eval_transform.image_size, 3)
    for name in ("saved_model", "model.tflite", "model.onnx"):
        result = deploy.verify(model, page / name, images)
        assert result.passed and result.max_difference < 1e-4
    # A LiteRT file takes one image.
    images = images[:1].astype("float32")
    expected = hub_models.outputs(model, images)
    np.save(page.parent / "images.npy", images)
    for name in ("saved_model", "model.tflite", "model.onnx"):
        clean_process.run(page.parent, name)
        found = np.load(page / f"{name}.npy")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    report = json.loads(files["verification.json"])
    assert len(report["artefacts"]) == 7
    # The card states the agreement, and how to run the files.
    readme = files["README.md"].decode()
    assert "model_bfloat16.xml` | OpenVINO, bfloat16 |" in readme
    assert readme.count("| 100.0% |") == 5 and '-v "$PWD/saved_model:' in readme
    monkeypatch.chdir(page)
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    imports = ("Interpreter", "import onnxruntime", "import openvino")
    runtimes = [b for b in blocks if any(name in b for name in imports)]
    assert len(runtimes) == len(imports)
    for block in runtimes:
        names = {"images": images}
        exec(block, names)
        np.testing.assert_allclose(names["scores"], expected, rtol=0, atol=1e-5)


def test_an_export_that_differs_stops_the_push(
    server, tmp_path, reference, monkeypatch
):
    def differs(*arguments):
        return dataclasses.replace(verify(*arguments), passed=False)

    verify = deploy.verify
    where = (OFFICIAL, REPO, tmp_path / "out")
    how = {"config": config(), "reference": reference}
    with monkeypatch.context() as patch:
        patch.setattr(deploy, "verify", differs)
        with pytest.raises(conversion.ComparisonError, match="model.tflite"):
            hub.release(*where, **how, exports=["litert"])
    assert not server.steps
    artefacts = tmp_path / "out-artefacts"
    assert (artefacts / "model.tflite").is_file()
    (artefacts / "chosen-before.onnx").write_bytes(b"old")
    hub.release(*where, **how, exports=["litert"])
    assert len(server.repos[REPO]["model.tflite"]) > 1000
    assert "chosen-before.onnx" not in server.repos[REPO]


def test_artefacts_do_not_replace_a_folder_of_others(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="artefacts.json"):
        hub.write_artefacts(None, tmp_path, ["litert"])
    assert (tmp_path / "thesis.tex").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_int8_is_calibrated_and_verified_on_the_given_images(
    tmp_path, reference, monkeypatch
):
    write_folder(tmp_path / "photos", splits=("any",), count=3)
    seen = []
    verify = deploy.verify
    monkeypatch.setattr(
        deploy,
        "verify",
        lambda model, path, x: seen.append(x) or verify(model, path, x),
    )
    config().to_json(tmp_path / "tiny.json")
    arguments = ["convert", str(OFFICIAL), f"hf://{REPO}", "--dry-run"]
    arguments += ["--folder", str(tmp_path), "--reference", str(reference)]
    arguments += ["--model", str(tmp_path / "tiny.json"), "--exports", "litert_int8"]
    assert main(arguments) == 1  # without images
    assert main([*arguments, "--representative", str(tmp_path / "photos")]) == 0
    folder = tmp_path / "me--tiny"
    metadata = deploy.read_metadata(folder / "model_int8.tflite")
    assert metadata["quantization"] == "int8"
    readme = (folder / "README.md").read_text()
    assert "| `model_int8.tflite` | LiteRT, int8 |" in readme
    assert len(seen) == 1 and seen[0].shape == (6, 224, 224, 3)


def test_all_continues_after_one_that_fails(server, tmp_path, monkeypatch, capsys):
    def one(checkpoint, repo_id, folder, **how):
        if "cvt21" in checkpoint:
            raise RuntimeError("cut off")
        return releasing.Release(checkpoint, repo_id, str(folder), commit="c0ffee")

    monkeypatch.setattr(releasing, "release", one)
    assert main(["convert", "--all", "hf://org", "--folder", str(tmp_path)]) == 1
    table = capsys.readouterr().out
    assert table.count("c0ffee") == 4 and table.count("cut off") == 3
    for weights in zoo.WEIGHTS:
        assert f"org/{weights.repo.split('/')[1]}" in table


def test_an_unknown_export_is_refused(tmp_path):
    with pytest.raises(ValueError, match="caffe"):
        hub.release(OFFICIAL, REPO, tmp_path / "out", exports=["caffe"])
    with pytest.raises(ValueError, match="representative images"):
        hub.release_all("org", tmp_path / "out", exports=["litert_int8"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--all", "x.pth", "hf://o"],
        ["--all", "hf://o", "--tolerance", "1"],
        ["hf://o/r"],
        # Otherwise the file would be written nevertheless.
        [str(OFFICIAL), "x.keras", "--dry-run"],
        [str(OFFICIAL), "x.keras", "--exports", "onnx"],
        [str(OFFICIAL), "x.keras", "--representative", "photos"],
    ],
)
def test_a_wrong_call_is_refused(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *arguments]) == 1
    assert not list(tmp_path.iterdir())
    assert "Expected" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["hf://microsoft/cvt-13@main", "cvt13/imagenet"])
def test_the_card_of_published_weights_states_their_results(
    server, tmp_path, monkeypatch, name
):
    """This also holds if a revision is named."""
    record = zoo.find("cvt13/imagenet")
    model = golden.model(golden.load("tiny_base")[1])
    monkeypatch.setitem(zoo.MODELS, record.model, model.cvt_config)
    save_checkpoint(model, tmp_path / "model.safetensors")
    weights = (tmp_path / "model.safetensors").read_bytes()
    server.repos[record.repo] = {"model.safetensors": weights}
    hub.release(name, REPO, tmp_path / "out", dry_run=True)
    readme = (tmp_path / "out" / "README.md").read_text()
    for fact in (f"base_model: {record.repo}", "81.59", "apache-2.0"):
        assert fact in readme


def test_the_network_is_built_once_and_once_for_the_written_files(
    server, tmp_path, reference, monkeypatch
):
    built = []
    build = builders.build_model
    monkeypatch.setattr(
        builders, "build_model", lambda *a, **k: built.append(1) or build(*a, **k)
    )
    hub.release(OFFICIAL, REPO, tmp_path / "x", config=config(), reference=reference)
    assert len(built) == 2


@pytest.mark.full_size
def test_published_weights_get_a_card_that_names_their_source(server, tmp_path):
    model = "cvt13/imagenet"
    _, meta = golden.load("cvt13_224x224")
    with pytest.warns(UserWarning, match="exact GELU"):
        save_checkpoint(golden.model(meta), tmp_path / "served", layout="transformers")
    served = {p.name: p.read_bytes() for p in (tmp_path / "served").iterdir()}
    server.repos["microsoft/cvt-13"] = served
    script = Path(__file__).parents[2] / "conversion" / "convert.py"
    command = [sys.executable, script, model, "hf://org/cvt-13", "--dry-run"]
    done = subprocess.run(
        [*command, "--folder", tmp_path / "releases"],
        env=environment(server, tmp_path),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "releases" / "org--cvt-13"
    readme = (folder / "README.md").read_text()
    for fact in (
        "base_model: microsoft/cvt-13",
        "81.59",
        "apache-2.0",
        "third parties",
    ):
        assert fact in readme
    names = json.loads((folder / "config.json").read_text())["id2label"]
    assert names["0"] == "tench"
