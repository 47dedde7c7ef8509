"""A web page on the Hub: a static Space beside the model's repository."""

import json
from pathlib import Path

import hub_models
import keras
import networks
import pytest
import yaml
from command_line import run as run_command
from hub_client import loopback
from web_pages import FILES, files_in

import keras_cvt
from keras_cvt import deploy, hub
from keras_cvt.deploy import export
from keras_cvt.repository import integrity

REPO = "me/flowers"
SPACE = f"spaces/{REPO}"

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)


@tensorflow_only
def test_a_card_says_how_to_show_a_page(tmp_path):
    model = hub_models.classifier()
    hub.write_artefacts(model, tmp_path / "exports", ["web"])
    hub.write_folder(
        model, tmp_path / "folder", repo_id=REPO, artefacts=tmp_path / "exports"
    )
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert "| `web_page` | web page | " in card
    assert "python -m http.server --directory web_page" in card
    assert (tmp_path / "folder" / "web_page" / "index.html").is_file()


@pytest.fixture(scope="module")
def pushed(tmp_path_factory):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("exports need TensorFlow")
    with pytest.MonkeyPatch.context() as patch:
        with loopback(tmp_path_factory.mktemp("pushed"), patch) as server:
            model = hub_models.classifier()
            about = hub.About(license="apache-2.0")
            names = {"class_names": hub_models.LABELS, "about": about}
            report = hub.push(model, REPO, page=True, **names)
            yield server, model, names, report


def test_a_push_with_a_page_makes_a_static_space(pushed):
    server, _, _, report = pushed
    assert report.space == f"{server.url}/spaces/{REPO}"
    assert report.url == f"{server.url}/{REPO}"
    assert server.sdks == {SPACE: "static"} and server.private[SPACE]
    files = server.repos[SPACE]
    assert set(files) == FILES | {"README.md", "SHA256SUMS", ".gitattributes"}
    assert len(server.history[SPACE]) == 2  # the Hub's own, and ours
    assert "index.html" not in server.repos[REPO]
    names = json.loads(files["keras_cvt.json"])["class_names"]
    assert names == hub_models.LABELS


def test_a_space_links_its_model_and_isolates_its_page(pushed):
    server, *_ = pushed
    _, front, text = server.repos[SPACE]["README.md"].decode().split("---\n")
    metadata = yaml.safe_load(front)
    assert metadata["sdk"] == "static" and metadata["app_file"] == "index.html"
    assert metadata["models"] == [REPO] and metadata["license"] == "apache-2.0"
    headers = metadata["custom_headers"]
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert f"(https://huggingface.co/{REPO})" in text and "Nothing is uploaded" in text


def test_the_network_of_a_space_computes_what_the_model_computes(pushed, tmp_path):
    server, model, *_ = pushed
    for name, content in server.repos[SPACE].items():
        (tmp_path / name).write_bytes(content)
    sums = integrity.read_sums(tmp_path / integrity.SUMS)
    assert set(sums) == FILES | {"README.md"}
    assert deploy.verify(model, tmp_path, hub_models.images()).passed


def test_a_space_keeps_its_owners_text_and_replaces_an_earlier_page(pushed, tmp_path):
    server, model, names, _ = pushed
    server.commit(SPACE, None, [])
    files = server.repos[SPACE]
    files["README.md"] = files["README.md"].replace(
        b"sdk: static", b"sdk: static\nemoji: X"
    )
    files["README.md"] += b"\nMy own words.\n"
    files["notes.txt"] = b"mine"
    export(model, tmp_path / "page", "web", "dynamic_int8", class_names=["x"] * 4)
    hub.push(model, REPO, page=tmp_path / "page", **names)
    files = server.repos[SPACE]
    assert b"emoji: X" in files["README.md"] and b"My own words." in files["README.md"]
    assert files["notes.txt"] == b"mine"
    metadata = json.loads(files["keras_cvt.json"])
    assert metadata["quantization"] == "dynamic_int8"
    assert metadata["class_names"] == ["x"] * 4


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small classifier and a page of it."""
    model = hub_models.classifier()
    path = tmp_path_factory.mktemp("small") / "page"
    export(model, path, "web", class_names=hub_models.LABELS)
    return model, path


@tensorflow_only
def test_a_space_of_something_else_stays_as_it_is(small, tmp_path, monkeypatch):
    model, page = small
    with loopback(tmp_path, monkeypatch) as server:
        hub.push(model, REPO)
        server.repos[SPACE] = {"app.py": b"mine", "README.md": b"---\nsdk: gradio\n---"}
        commits = len(server.history[REPO])
        with pytest.raises(ValueError, match=r"a Space with \['app.py'\]"):
            hub.push(model, REPO, page=page)
        assert len(server.history[REPO]) == commits
        assert server.repos[SPACE]["app.py"] == b"mine"
        assert set(server.repos[SPACE]) == {"app.py", "README.md"}


@tensorflow_only
@pytest.mark.parametrize("page", ["missing", "."])
def test_what_is_no_page_is_refused_before_anything_is_pushed(
    small, tmp_path, monkeypatch, page
):
    monkeypatch.chdir(tmp_path)
    with loopback(tmp_path, monkeypatch) as server:
        with pytest.raises(ValueError, match=f"Expected a web page.*page='{page}'"):
            hub.push(small[0], REPO, page=page)
        assert server.repos == {}


@tensorflow_only
def test_a_page_of_another_model_is_refused_before_anything_is_pushed(
    small, tmp_path, monkeypatch
):
    other = networks.build(networks.CONFIGS["as published"])
    other.class_names = [f"flower {i}" for i in range(10)]
    export(other, tmp_path / "page", "web")
    with loopback(tmp_path, monkeypatch) as server:
        with pytest.raises(ValueError, match="outputs of shape"):
            hub.push(small[0], REPO, page=tmp_path / "page")
        assert server.repos == {}


@tensorflow_only
def test_a_space_that_cannot_be_pushed_is_named(small, tmp_path, monkeypatch):
    model, page = small
    with loopback(tmp_path, monkeypatch) as server:
        # The model's own creation succeeds.
        server.before["create"] = lambda: (
            REPO in server.repos and server.fail("create", 403)
        )
        with pytest.raises(
            PermissionError, match="The Space me/flowers was not pushed"
        ):
            hub.push(model, REPO, page=page)
        assert "model.safetensors" in server.repos[REPO]
        server.heal()
        assert hub.push(model, REPO, page=page).space.endswith(SPACE)


@tensorflow_only
def test_convert_pushes_a_page_and_a_second_call_only_what_is_left(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    keras_cvt.checkpoints.save_checkpoint(
        hub_models.classifier(), tmp_path / "checkpoint", "transformers"
    )
    with loopback(tmp_path / "caches", monkeypatch) as server:
        arguments = ("convert", "checkpoint", f"hf://{REPO}", "--page")
        status, printed, _ = run_command(*arguments, "--dry-run")
        assert status == 0 and server.repos == {}
        written = Path("releases", "me--flowers-space")
        assert files_in(written) == FILES | {"README.md", "SHA256SUMS"}
        before = (written / "model.onnx").stat().st_mtime_ns
        status, printed, _ = run_command(*arguments)
        assert status == 0 and f"page: {server.url}/{SPACE}" in printed
        assert (written / "model.onnx").stat().st_mtime_ns == before
        assert set(server.repos) == {REPO, SPACE}
    status, _, errors = run_command("convert", "checkpoint", "out.keras", "--page")
    assert status == 1 and "Expected hf://org/repo with" in errors
    status, _, errors = run_command("convert", "--all", "hf://me", "--page")
    assert status == 1 and "--page without --all" in errors
