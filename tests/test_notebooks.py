"""The notebooks of `examples/` run in a real kernel and give what they say.

Each runs with a small network, which a server on the loopback has in the place of the
Hub, and with small images; only the cell tagged `parameters` is replaced. One also runs
as it is.
"""

import base64
import csv
import importlib
import io
import json
import os
import re
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import golden
import keras
import numpy as np
import pytest
from hub_client import TOKEN, environment
from image_folders import write_image
from loopback_hub import LoopbackHub
from PIL import Image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, deploy, explain, inference
from keras_cvt.checkpoints import save_checkpoint
from keras_cvt.preprocessing import EvalTransform
from keras_cvt.preprocessing.predictions import imagenet_class_names

nbclient = pytest.importorskip("nbclient", reason="needs the extra [test]")
nbformat = pytest.importorskip("nbformat", reason="needs the extra [test]")
pytest.importorskip("ipykernel", reason="needs the extra [test]")

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
NAMES = ("classify", "deploy", "explain", "fine_tune")
by_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)

SMALL = CvTConfig(
    stages=(
        StageConfig(16, 1, 1, 7, 4, 2),
        StageConfig(32, 2, 2, 3, 2, 1),
        StageConfig(32, 3, 2, 3, 2, 1, cls_token=True),
    )
)
REPO = "test/small"
SMALL_VALUES = f"""
import functools

config = keras_cvt.CvTConfig.from_json("config.json")
MODEL = functools.partial(keras_cvt.CvT, config)
WEIGHTS = "hf://{REPO}"
"""
PHOTO_SIZES = {"photo0.png": (90, 70), "photo1.jpg": (64, 100), "photo2.png": (80, 80)}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook):
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    return cell


class Executed:
    """What the cells of a notebook printed and drew."""

    def __init__(self, notebook):
        self._cells = {cell.id: cell for cell in code_cells(notebook)}

    def text(self, cell):
        """Return what a cell printed, without what went to the error output."""
        outputs = self._cells[cell].outputs
        return "".join(o.text for o in outputs if o.get("name") == "stdout")

    def picture(self, cell):
        """Return the only picture of a cell's outputs, as pixels."""
        found = [o.data for o in self._cells[cell].outputs if "data" in o]
        (encoded,) = [data["image/png"] for data in found if "image/png" in data]
        png = base64.b64decode(encoded)
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def execute(notebook, folder, kernel_environment, kernel="python3"):
    """Run all cells in a new kernel that works in `folder`."""
    client = nbclient.NotebookClient(
        notebook,
        timeout=540,
        kernel_name=kernel,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=kernel_environment)
    return Executed(notebook)


def run_small(name, values, hub, folder, kept):
    """Run a notebook with small values.

    Args:
        name: The notebook's name.
        values: What its parameters are, beside the network and its weights.
        hub: The server.
        folder: Folder in which the kernel works.
        kept: Expressions of arrays that are read back after the last cell.

    Returns:
        What the cells gave, and the arrays.
    """
    notebook = read(FOLDER / f"{name}.ipynb")
    cell = parameters(notebook)
    small = SMALL_VALUES + "".join(f"{k} = {v!r}\n" for k, v in values.items())
    # Nothing that the notebook sets is left as it was.
    assert assigned(cell.source) == {"MODEL", "WEIGHTS", *values}
    cell.source = small
    arrays = ", ".join(f"{name}={source}" for name, source in kept.items())
    code = f"import numpy\nnumpy.savez('kept.npz', {arrays})"
    notebook.cells.append(nbformat.v4.new_code_cell(code, id="kept"))
    executed = execute(notebook, folder, kernel_environment(hub, folder))
    with np.load(folder / "kept.npz") as archive:
        return executed, dict(archive)


def assigned(source):
    return set(re.findall(r"^(\w+) = ", source, re.M))


def kernel_environment(hub, folder, **more):
    more = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"} | more
    kernel = environment(hub, folder / "home", **more)
    # It would draw into files of its own choice.
    kernel.pop("MPLBACKEND", None)
    return kernel


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small network, and a server that has its weights."""
    model = keras_cvt.CvT(SMALL, activation="gelu")
    golden.fill(model)
    model.eval_transform = EvalTransform((64, 64), 0.875)
    model.class_names = imagenet_class_names()
    saved = tmp_path_factory.mktemp("small")
    save_checkpoint(model, saved / "repo", layout="transformers")
    files = {path.name: path.read_bytes() for path in (saved / "repo").iterdir()}
    with LoopbackHub({REPO: files}, token=TOKEN) as hub:
        yield model, hub


@pytest.fixture
def folder(tmp_path):
    """A folder with photos, in which a notebook runs."""
    SMALL.to_json(tmp_path / "config.json")
    for seed, (name, size) in enumerate(PHOTO_SIZES.items()):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (5, 5, 3), dtype="uint8")
        (tmp_path / "photos").mkdir(exist_ok=True)
        smooth = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        smooth.save(tmp_path / "photos" / name)
    return tmp_path


def photos_of(folder):
    return sorted((folder / "photos").iterdir())


# What the files hold


def test_the_notebooks_are_those_that_are_tested():
    assert tuple(path.stem for path in PATHS) == NAMES


@by_notebook
def test_a_notebook_is_short_valid_and_has_no_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    cells = code_cells(notebook)
    assert 0 < len(cells) <= 12
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [
        ([], None) for _ in cells
    ]


@by_notebook
def test_words_stand_above_every_step(path):
    kinds = [cell.cell_type for cell in read(path).cells]
    assert kinds[0] == "markdown"
    assert kinds[1:-1] == ["markdown", "code"] * (len(kinds) // 2 - 1)
    assert kinds[-1] == "markdown"


@by_notebook
def test_the_parameters_are_the_published_ones(path):
    values = {"keras_cvt": keras_cvt}
    exec(parameters(read(path)).source, values)
    assert values["MODEL"] is keras_cvt.CvT13
    assert values["WEIGHTS"] in keras_cvt.list_weights("cvt13")
    assert not set(values.get("FORMATS", ())) - set(deploy.FORMATS)


@by_notebook
def test_only_the_install_cell_installs_and_only_what_is_declared(path):
    first, *others = code_cells(read(path))
    assert not any("pip" in cell.source for cell in others)
    extras = re.search(r"\{SOURCE\}\[([\w,]+)\]", first.source)[1]
    documented = importlib.import_module("documented")
    assert set(extras.split(",")) <= documented.declared_extras()
    same = first.source.replace(extras, "")
    other = code_cells(read(FOLDER / "classify.ipynb"))[0].source
    assert same == other.replace("tensorflow,demo", "")


# What they compute


def test_classify_names_what_the_model_predicts(small, folder):
    model, hub = small
    found, kept = run_small(
        "classify",
        {"PHOTOS": "photos"},
        hub,
        folder,
        {"scores": "scores"},
    )
    paths = photos_of(folder)
    scores = model.predict(keras_cvt.preprocess_input(paths, model), verbose=0)
    np.testing.assert_allclose(kept["scores"], scores, rtol=1e-4, atol=1e-7)
    best = keras_cvt.decode_predictions(scores, top=3)
    text = found.text("predict")
    for path, classes in zip(paths, best, strict=True):
        named = ", ".join(f"{name} {score:.1%}" for _, name, score in classes)
        assert f"{path.name}: {named}\n" in text
    assert "3 photos, 0 of them unreadable" in found.text("many")
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(Path(row["image"]).name, row["label_1"]) for row in rows] == [
        (path.name, classes[0][1]) for path, classes in zip(paths, best, strict=True)
    ]
    assert is_drawn(found.picture("look"))


def is_drawn(picture):
    """Return whether a picture has a size to look at and many colours."""
    colors = np.unique(picture.reshape(-1, 3), axis=0)
    return min(picture.shape[:2]) > 150 and len(colors) > 100


@pytest.mark.full_size
def test_classify_runs_as_it_is(tmp_path):
    """The published network, of random weights, and the photos of scikit-image."""
    model = keras_cvt.CvT13(weights=None)
    golden.fill(model)
    gelu = keras_cvt.CvT13(weights=None, activation="gelu")
    gelu.set_weights(model.get_weights())
    save_checkpoint(gelu, tmp_path / "repo", layout="transformers")
    files = {path.name: path.read_bytes() for path in (tmp_path / "repo").iterdir()}
    notebook = read(FOLDER / "classify.ipynb")
    with LoopbackHub({"microsoft/cvt-13": files}, token=TOKEN) as hub:
        found = execute(notebook, tmp_path, kernel_environment(hub, tmp_path))
    paths = photos_of(tmp_path)
    assert [p.stem for p in paths] == ["astronaut", "chelsea", "coffee", "rocket"]
    scores = model.predict(keras_cvt.preprocess_input(paths, model), verbose=0)
    for path, [(_, name, score)] in zip(
        paths, keras_cvt.decode_predictions(scores, top=1), strict=True
    ):
        assert f"{path.name}: {name} {score:.1%}" in found.text("predict")
    assert "cvt13/imagenet" in found.text("network")
    assert is_drawn(found.picture("look"))


def test_explain_draws_the_heat_maps_of_the_library(small, folder):
    model, hub = small
    found, kept = run_small(
        "explain",
        {"PHOTOS": "photos"},
        hub,
        folder,
        {
            "heat_maps": "heat_maps",
            "two_maps": "two_maps",
            "read": "read",
            "heads": "heads",
            **{f"picture{i}": f"pictures[{i}]" for i in range(len(PHOTO_SIZES))},
        },
    )
    paths = photos_of(folder)
    images = keras_cvt.preprocess_input(paths, model)
    heat_maps = explain.grad_cam(model, images)
    assert heat_maps.shape == (3, 64, 64) and (heat_maps.max(axis=(1, 2)) > 0.5).all()
    np.testing.assert_allclose(kept["heat_maps"], heat_maps, atol=1e-3)
    np.testing.assert_allclose(
        kept["read"], explain.class_token_map(model, images), rtol=1e-3, atol=1e-6
    )
    for i, path in enumerate(paths):
        photo = np.asarray(Image.open(path).convert("RGB"))
        picture = kept[f"picture{i}"]
        assert picture.dtype == "uint8" and picture.shape == photo.shape
        expected = explain.overlay(path, heat_maps[i], model)
        np.testing.assert_allclose(picture, expected.astype(int), atol=3)
        assert (picture != photo).mean() > 0.1
    # The same photo, for two classes.
    np.testing.assert_allclose(kept["two_maps"][0], heat_maps[0], atol=1e-3)
    assert np.abs(kept["two_maps"][1] - heat_maps[0]).max() > 0.1
    attention = explain.attention_maps(model, images[:1], block=-1).of_class_token[0]
    np.testing.assert_allclose(kept["heads"], attention, atol=1e-5)
    for cell in ("overlay", "two", "read"):
        assert is_drawn(found.picture(cell)), cell
    assert Image.open(folder / "why.png").size == PHOTO_SIZES[paths[0].name]


def test_deploy_writes_files_that_answer_as_the_model(small, folder):
    model, hub = small
    formats = ["litert", "litert_int8"]
    found, kept = run_small(
        "deploy",
        {"PHOTOS": "photos", "FORMATS": formats},
        hub,
        folder,
        {"scores": "scores", "images": "images"},
    )
    paths = photos_of(folder)
    expected = model.predict(keras_cvt.preprocess_input(paths, model), verbose=0)
    np.testing.assert_allclose(kept["scores"], expected, rtol=1e-3, atol=1e-6)
    names = keras_cvt.decode_predictions(kept["scores"], top=1)
    text = found.text("run")
    for path, [(_, name, score)] in zip(paths, names, strict=True):
        assert f"{path.name}: {name} {score:.1%}\n" in text
    assert kept["images"].shape == (32, 64, 64, 3)
    for cell, file in (("float32", "cvt.tflite"), ("int8", "cvt_int8.tflite")):
        assert re.search(r"verdict +passed", found.text(cell)), found.text(cell)
        verified = deploy.verify(model, folder / file, kept["images"])
        assert verified.passed, verified
    metadata = deploy.read_metadata(folder / "cvt_int8.tflite")
    assert metadata["quantization"] == "int8"
    table = found.text("benchmark")
    for name in ("keras", *formats):
        assert re.search(rf"^\W*{name} .*passed", table, re.M), table
    assert is_drawn(found.picture("chart"))


FLOWERS = {"daisy": (230, 230, 220), "rose": (200, 30, 60), "tulip": (240, 200, 40)}


def write_archive(path):
    """Write photos of flowers that differ in their colour, as the download has them."""
    root = path.parent / "flower_photos"
    for name, color in FLOWERS.items():
        for i in range(20):
            photo = root / name / f"{i}.jpg"
            write_image(photo, seed=i, size=(40, 48))
            noise = Image.open(photo)
            Image.blend(noise, Image.new("RGB", noise.size, color), 0.8).save(photo)
    (root / "LICENSE.txt").write_text("CC-BY")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, root.name)


def test_fine_tune_saves_a_model_that_tells_the_classes(small, folder):
    _, hub = small
    (folder / "web").mkdir()
    write_archive(folder / "web" / "flower_photos.tgz")
    values = {
        "PHOTOS": "photos_by_class",  # which is not there
        "DOWNLOAD": (folder / "web" / "flower_photos.tgz").as_uri(),
        "RUN": "run",
        "IMAGE_SIZE": 32,
        "BATCH_SIZE": 8,
        "EPOCHS": 3,
        "LEARNING_RATE": 3e-3,
    }
    found, kept = run_small(
        "fine_tune",
        values,
        hub,
        folder,
        {"accuracy": "[row['val_accuracy'] for row in history]", "scores": "scores"},
    )
    assert "48 photos to learn, 12 held out" in found.text("photos")
    assert len(kept["accuracy"]) == values["EPOCHS"]

    # In another program, as a user does it.
    best = inference.classifier_of(folder / "run" / "best.keras")
    assert best.description.class_names == tuple(FLOWERS)
    paths = sorted((folder / "run" / "split" / "validation").glob("*/*"))
    assert len(paths) == 12
    scores = best.scores(keras_cvt.preprocess_input(paths, best))
    right = [list(FLOWERS).index(path.parent.name) for path in paths]
    accuracy = np.mean(scores.argmax(-1) == right)
    assert accuracy >= 0.9
    np.testing.assert_allclose(kept["accuracy"].max(), accuracy, atol=1e-6)
    shown = slice(None, None, 2)  # at most 8, of all classes
    np.testing.assert_allclose(kept["scores"], scores[shown], rtol=1e-3, atol=1e-5)
    assert f"{accuracy:.1%} of the held-out photos" in found.text("train")
    lines = found.text("load").splitlines()
    lines = [line for line in lines if re.match(rf"({'|'.join(FLOWERS)}): ", line)]
    assert lines == [
        f"{path.parent.name}: {list(FLOWERS)[row.argmax()]} {row.max():.1%}"
        for path, row in zip(paths[shown], kept["scores"], strict=True)
    ]
    # The first stage was frozen.
    start = small[0].stages[0].get_weights()
    tuned = keras.models.load_model(folder / "run" / "best.keras", compile=False)
    for before, after in zip(start, tuned.stages[0].get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert is_drawn(found.picture("curves")) and is_drawn(found.picture("look"))


# How a reader gets the package and the notebooks


@pytest.mark.parametrize("source", ["a wheel beside the notebook", "the clone"])
def test_the_first_cell_installs_the_package(source, tmp_path, monkeypatch):
    """In an environment that has everything but the package."""
    hatchling = pytest.importorskip("hatchling.builders.wheel")
    works_in = FOLDER
    if source != "the clone":
        builder = hatchling.WheelBuilder(str(ROOT))
        (wheel,) = builder.build(directory=str(tmp_path / "work"))
        works_in = tmp_path / "work"
        names = zipfile.ZipFile(wheel).namelist()
        assert not any(name.endswith(".ipynb") for name in names)
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # The packages of this environment. Those of its `.pth` files, such as an editable
    # keras_cvt, are not among them.
    (Path(own) / "others.pth").write_text(f"{Path(np.__file__).parents[1]}\n")
    specification = tmp_path / "jupyter" / "kernels" / "other"
    specification.mkdir(parents=True)
    words = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (specification / "kernel.json").write_text(
        json.dumps({"argv": words, "display_name": "other", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    notebook = read(FOLDER / "classify.ipynb")
    install = code_cells(notebook)[0]
    look = nbformat.v4.new_code_cell("print(keras_cvt.__file__)", id="look-up")
    missing = nbformat.v4.new_code_cell(
        "import importlib.util\nprint(importlib.util.find_spec('keras_cvt'))", id="none"
    )
    notebook.cells = [missing, install, look]
    kernel = {
        **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        "KERAS_BACKEND": "tensorflow",
        # Nothing is downloaded: all that the package needs is there. (0 means "no".)
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
    }
    found = execute(notebook, works_in, kernel, kernel="other")
    assert found.text("none") == "None\n"
    assert Path(found.text("look-up").strip()).is_relative_to(own)


def test_the_site_links_to_colab_once_the_repository_has_an_address(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    generate = importlib.import_module("generate")
    mark = "<!-- table of notebooks -->"
    assert mark in (ROOT / "docs" / "notebooks.md").read_text()
    without = generate.fill(mark)
    assert "[Classify photos](notebooks/classify.ipynb)" in without
    assert "colab" not in without
    table = generate.fill(mark, "https://github.com/org/keras_cvt/")
    links = re.findall(r"\[open in Colab\]\((.*?)\)", table)
    at = "https://colab.research.google.com/github/org/keras_cvt/blob/main/"
    assert links == [f"{at}{path.relative_to(ROOT).as_posix()}" for path in PATHS]
    pages = generate.files()
    for path in PATHS:
        assert pages[f"notebooks/{path.name}"] == path.read_bytes()
