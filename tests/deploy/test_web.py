"""A web page of a model: its folder and its metadata."""

import json
import re
from pathlib import Path

import keras
import networks
import pytest
import web_browser
from command_line import run as run_command
from web_pages import FILES, files_in

import keras_cvt
from keras_cvt import deploy
from keras_cvt.deploy import export, formats
from keras_cvt.deploy.formats import web
from keras_cvt.preprocessing import EvalTransform

ROOT = Path(__file__).parents[2]

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)


@pytest.fixture(scope="module")
def model():
    built = networks.build(networks.CONFIGS["as published"], name="flowers")
    built.source_weights = "<mine> & yours"
    built.eval_transform = EvalTransform((64, 64), 0.875)
    built.class_names = [f"flower {i}" for i in range(10)]
    return built


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A folder with files of the runtime's names."""
    folder = tmp_path_factory.mktemp("dist")
    for name in web._INTEGRITY:
        (folder / name).write_text(f"content of {name}")
    return folder


@pytest.fixture(scope="module")
def page(model, runtime, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "page"
    metadata = export(model, path, "web", runtime=runtime)
    return path, metadata


def policy(path):
    """Return a page's Content-Security-Policy by directive."""
    text = (path / "index.html").read_text(encoding="utf-8")
    (content,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    parts = [part.split() for part in content.split(";")]
    return {name: sources for name, *sources in parts}


@tensorflow_only
def test_the_folder_holds_all_that_the_browser_loads(page, runtime):
    path, _ = page
    assert files_in(path) == FILES | {f"runtime/{name}" for name in web._INTEGRITY}
    for name in web._INTEGRITY:
        copied = (path / "runtime" / name).read_bytes()
        assert copied == (runtime / name).read_bytes()
    text = (path / "index.html").read_text(encoding="utf-8")
    linked = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert set(linked) == {"data:,", "style.css", "app.js"}
    assert "nothing is uploaded" in text
    assert "flowers answers with 10 classes" in text
    assert "Weights: &lt;mine&gt; &amp; yours." in text and "<mine>" not in text


@tensorflow_only
def test_the_metadata_is_that_of_other_formats(page, model):
    path, metadata = page
    assert metadata == deploy.read_metadata(path)
    assert (metadata["format"], metadata["quantization"]) == ("web", None)
    assert metadata["class_names"] == list(model.class_names)
    assert metadata["input"]["batch_size"] == 1 and metadata["fused"]
    assert formats.of_path(path).name == "web"
    answer = json.loads((path / "page.json").read_text())
    assert answer["activation"] == "softmax" and answer["top"] == 5
    assert answer["model"]["bytes"] == (path / "model.onnx").stat().st_size


@tensorflow_only
def test_a_page_computes_what_its_model_computes(page, model):
    result = deploy.verify(model, page[0], networks.images(3, 64, 64, 3))
    assert result.passed and result.max_difference <= 2e-5, result
    assert result.format == "web"
    assert result.size_bytes == sum(
        file.stat().st_size for file in page[0].rglob("*") if file.is_file()
    )


@tensorflow_only
def test_dynamic_int8_has_the_same_answers(model, tmp_path):
    path = tmp_path / "page"
    metadata = export(model, path, "web", "dynamic_int8", top=3)
    assert metadata["quantization"] == "dynamic_int8"
    result = deploy.verify(model, path, networks.images(8, 64, 64, 3))
    assert result.passed and result.cosine > 0.999, result
    assert json.loads((path / "page.json").read_text())["top"] == 3


@tensorflow_only
def test_a_page_talks_to_its_server_only(page):
    directives = policy(page[0])
    assert directives["default-src"] == directives["form-action"] == ["'none'"]
    assert directives["connect-src"] == ["'self'"]
    assert directives["img-src"] == ["'self'", "data:"]
    assert "cdn" not in (page[0] / "index.html").read_text(encoding="utf-8")


@tensorflow_only
def test_without_a_runtime_it_comes_from_its_cdn_with_recorded_hashes(model, tmp_path):
    export(model, tmp_path / "page", "web")
    assert files_in(tmp_path / "page") == FILES
    place = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{web._VERSION}/dist/"
    assert policy(tmp_path / "page")["connect-src"] == ["'self'", place]
    # Nothing of it runs before its hash is compared.
    assert place not in policy(tmp_path / "page")["script-src"]
    found = json.loads((tmp_path / "page" / "page.json").read_text())["runtime"]
    assert found["folder"] == place
    recorded = {found[part]["name"]: found[part] for part in ("script", "binary")}
    assert {n: r["integrity"] for n, r in recorded.items()} == web._INTEGRITY
    text = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "cdn.jsdelivr.net" in text.split("<footer>")[1]


def test_the_recorded_hashes_are_those_of_the_release():
    folder = web_browser.runtime_folder()
    assert {name: web._hash(folder / name) for name in web._INTEGRITY} == web._INTEGRITY
    script = (folder / "ort.wasm.bundle.min.mjs").read_text(encoding="utf-8")
    assert f"ONNX Runtime Web v{web._VERSION}" in script[:100]


@tensorflow_only
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onnx", "runtime": "x"}, "`runtime` is only for a web page"),
        (
            {"runtime": "empty"},
            "dist.*onnxruntime-web. Received: runtime=.*empty.*wasm",
        ),
        ({"batch_size": 2}, "one image per call.*Received: batch_size=2"),
        ({"path": "page.onnx"}, "Expected a folder, without the suffix of a file"),
        ({"path": "website"}, "holds something else"),
        ({"quantization": "int8"}, "'web_dynamic_int8'.*quantization='int8'"),
    ],
)
def test_what_no_page_can_be_is_refused(
    model, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("website").mkdir()
    # Somebody's own site is not taken for an earlier page.
    Path("website", "index.html").write_text("mine")
    path = "m.onnx" if arguments.get("format") == "onnx" else "page"
    with pytest.raises(ValueError, match=message):
        export(model, **{"path": path, "format": "web"} | arguments)
    assert files_in(tmp_path) == {"website/index.html"}


@tensorflow_only
@pytest.mark.parametrize("change", ["backbone", "normalised images"])
def test_only_a_classifier_of_photos_gets_a_page(tmp_path, change):
    arguments = {"include_preprocessing": False}
    if change == "backbone":
        arguments = {"include_top": False, "classes": 1000}
    model = keras_cvt.CvT(
        networks.CONFIGS["linear"], **{"input_shape": (32, 32, 3)} | arguments
    )
    with pytest.raises(ValueError, match="Expected a (classifier|model that takes)"):
        export(model, tmp_path / "page", "web")
    assert not list(tmp_path.iterdir())


@tensorflow_only
def test_an_earlier_page_is_replaced_and_stays_if_a_new_one_fails(
    page, model, tmp_path
):
    path = tmp_path / "page"
    export(model, path, "web", top=2)
    (path / "of_before.txt").touch()
    with pytest.raises(ValueError, match="runtime="):
        export(model, path, "web", runtime=tmp_path)
    assert (path / "of_before.txt").exists()
    export(model, path, "web", top=3)
    assert files_in(path) == FILES
    assert json.loads((path / "page.json").read_text())["top"] == 3


def test_what_measures_every_format_leaves_pages_out():
    names = [v.name for v in formats.variants().values() if v.format.is_page]
    assert names == ["web", "web_dynamic_int8"]
    assert not set(names) & set(formats.candidates())
    # But whoever asks for one gets it.
    assert set(names) < set(deploy.FORMATS)


@tensorflow_only
def test_a_benchmark_by_default_measures_no_page(monkeypatch, tmp_path):
    networks.save_classifier(tmp_path / "model.keras")
    small = keras.models.load_model(tmp_path / "model.keras")
    seen = []
    with pytest.raises(InterruptedError):

        def progress(name):
            seen.append(name)
            raise InterruptedError

        deploy.benchmark(small, networks.images(1, 64, 64, 3), progress=progress)
    assert seen == ["keras"]
    result = deploy.benchmark(small, networks.images(1, 64, 64, 3), formats=["web"])
    assert [row.name for row in result.measurements] == ["keras", "web"]
    assert result.passed, str(result)


@tensorflow_only
def test_the_command_line_exports_and_verifies_a_page(tmp_path, runtime):
    networks.save_classifier(tmp_path / "model.keras")
    arguments = [tmp_path / "model.keras", tmp_path / "page", "--format", "web"]
    status, printed, _ = run_command("export", *arguments, "--runtime", runtime)
    assert status == 0 and "passed" in printed
    assert (tmp_path / "page" / "runtime" / "ort-wasm-simd-threaded.wasm").is_file()
    # Its head has a softmax already.
    assert (
        json.loads((tmp_path / "page" / "page.json").read_text())["activation"] is None
    )
    status, printed, _ = run_command("verify", *arguments[:2])
    assert status == 0 and "passed" in printed
    arguments[1] = tmp_path / "m.onnx"
    status, _, errors = run_command("export", *arguments[:2], "--runtime", runtime)
    assert status == 1 and "only for a web page" in errors


def test_the_wheel_holds_the_files_of_a_page(tmp_path):
    hatchling = pytest.importorskip("hatchling.builders.wheel")
    builder = hatchling.WheelBuilder(str(ROOT))
    included = {file.distribution_path for file in builder.recurse_included_files()}
    assets = {f"keras_cvt/assets/web/{name}" for name in (*web._STATIC, "index.html")}
    assert assets <= included
