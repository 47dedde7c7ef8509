"""A web page of a model: its folder, its metadata, its scripts in Node, its Space."""

import io
import json
import re
from pathlib import Path

import hub_models
import keras
import networks
import numpy as np
import pytest
import web_browser
import yaml
from command_line import run as run_command
from hub_client import loopback
from PIL import Image, ImageCms

import keras_cvt
from keras_cvt import deploy, hub
from keras_cvt.deploy import export, formats
from keras_cvt.deploy.formats import web
from keras_cvt.preprocessing import EvalTransform, transform
from keras_cvt.repository import integrity

ROOT = Path(__file__).parents[2]
REPO = "me/flowers"
SPACE = f"spaces/{REPO}"
FILES = {
    *("index.html", "style.css", "app.js", "worker.js", "decode.js", "preprocess.js"),
    *("model.onnx", "page.json", "keras_cvt.json"),
}

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


def files_in(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


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


# The scripts in Node, without a browser

PREPROCESS = """
import fs from "node:fs";
import { preprocess } from "./preprocess.js";

for (const { file, size, transform, tallFirst } of JSON.parse(
  fs.readFileSync(process.argv[2]),
)) {
  const rgba = new Uint8Array(fs.readFileSync(file));
  const pixels = preprocess(rgba, ...size, transform, tallFirst);
  fs.writeFileSync(`${file}.out`, pixels);
}
"""
SIZES = [
    *((224, 224), (256, 256), (500, 333), (333, 500), (50, 40), (1, 1), (1, 300)),
    *((64, 900), (900, 64), (257, 256), (640, 480), (224, 500), (2000, 100)),
]
TRANSFORMS = [
    EvalTransform((224, 224), 0.875),
    EvalTransform((384, 384), None),
    EvalTransform((64, 96), 0.9),
    EvalTransform((33, 65), 1.0),
]


def test_the_script_makes_the_pixels_of_preprocess_input(tmp_path):
    rng = np.random.default_rng(0)
    images, calls = [], []
    for size in SIZES:
        width, height = size
        for wanted in TRANSFORMS:
            image = rng.integers(0, 256, (height, width, 4), "uint8")
            # Sharp edges, behind which bicubic values are clipped.
            image[: height // 2] = 255 * (image[: height // 2] > 127)
            file = tmp_path / f"{len(images)}.raw"
            file.write_bytes(image.tobytes())
            images.append((image[..., :3].copy(), wanted))
            calls.append(
                {
                    "file": str(file),
                    "size": size,
                    "transform": wanted.to_dict(),
                    "tallFirst": bool(transform.vertical_first(4, 1, 1, 1)),
                }
            )
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    web_browser.run_in_node(tmp_path, PREPROCESS, tmp_path / "calls.json")
    for call, (image, wanted) in zip(calls, images, strict=True):
        expected = keras_cvt.preprocess_input(Image.fromarray(image), wanted)[0]
        found = np.fromfile(call["file"] + ".out", "uint8").reshape(expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=str(call))


def test_the_script_refuses_what_preprocess_input_refuses(tmp_path):
    program = """
    import { checkSize } from "./preprocess.js";
    const refused = [[0, 5], [65536, 1], [20000, 9000], [65535, 1], [10000, 10000]];
    console.log(JSON.stringify(refused.map(([width, height]) => {
      try { checkSize(width, height); return false; } catch { return true; }
    })));
    """
    found = json.loads(web_browser.run_in_node(tmp_path, program))
    assert found == [True, True, True, False, False]


PLAIN = """
import fs from "node:fs";
import { withoutMetadata } from "./decode.js";

const [source, target, upright] = process.argv.slice(2);
const parts = withoutMetadata(fs.readFileSync(source), upright === "upright");
fs.writeFileSync(target, Buffer.concat(parts));
"""


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP"])
def test_orientation_and_profile_are_taken_out_of_a_file(tmp_path, format, upright):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), "uint8")
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    source, target = tmp_path / "source", tmp_path / "target"
    image = Image.fromarray(pixels)
    image.save(source, format, exif=exif, icc_profile=profile, lossless=True)
    word = "upright" if upright else "-"
    web_browser.run_in_node(tmp_path, PLAIN, source, target, word)
    with Image.open(source) as before, Image.open(target) as after:
        assert "icc_profile" in before.info and "icc_profile" not in after.info
        assert before.getexif()[0x0112] == 6
        assert after.getexif().get(0x0112) == (6 if upright else None)
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))


def test_other_and_damaged_files_pass_through_as_they_are(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (9, 9)).save(content, "GIF")
    for i, data in enumerate((content.getvalue(), b"", b"\xff\xd8\xff", b"\x89PNG")):
        source, target = tmp_path / f"{i}", tmp_path / f"{i}.out"
        source.write_bytes(data)
        web_browser.run_in_node(tmp_path, PLAIN, source, target, "-")
        assert target.read_bytes() == data


# The Hub


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
        with pytest.raises(ValueError, match=r"a Space with \['app.py'\]"):
            hub.push(model, REPO, page=page)
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
    page, small, tmp_path, monkeypatch
):
    with loopback(tmp_path, monkeypatch) as server:
        with pytest.raises(ValueError, match="outputs of shape"):
            hub.push(small[0], REPO, page=page[0])
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
