"""`keras-cvt explain`: photos in, one picture out."""

import json
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from command_line import run
from explain.small import network
from image_folders import write_image
from PIL import Image

from keras_cvt import deploy, explain, preprocess_input
from keras_cvt.cli import explain as cli_explain


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with two photos and networks in `.keras` files."""
    folder = tmp_path_factory.mktemp("explain")
    rng = np.random.default_rng(0)
    for name, size in (("wide.png", (90, 60)), ("tall.jpg", (50, 80))):
        pixels = rng.integers(0, 256, (*size[::-1], 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / name)
    model = network(input_shape=(40, 40, 3))
    model.class_names = [
        "a $ sign",
        "a name that is much too long for a figure",
        "c",
        "d",
    ]
    model.save(folder / "model.keras")
    network("pooled", input_shape=(40, 40, 3)).save(folder / "pooled.keras")
    deploy.fuse(model).save(folder / "fused.keras")
    return folder


def test_each_map_is_drawn_on_its_photo(folder, tmp_path, monkeypatch):
    drawn = []

    def overlay(photo, heat, model):
        drawn.append((photo.size, heat))
        return explain.overlay(photo, heat, model)

    monkeypatch.setattr(
        cli_explain, "explain", SimpleNamespace(**{**vars(explain), "overlay": overlay})
    )
    photos = [folder / "wide.png", folder / "tall.jpg"]
    arguments = ["--model", folder / "model.keras", "--top", 2, "--batch-size", 1]
    run("explain", *photos, *arguments, "--output", tmp_path / "why.png")
    model = keras.models.load_model(folder / "model.keras")
    images = preprocess_input(photos, model)
    best = np.argsort(-model.predict(images, verbose=0))[:, :2]
    expected = [
        explain.grad_cam(model, images, best[:, i])[row]
        for row in range(2)
        for i in range(2)
    ]
    assert [size for size, _ in drawn] == [(90, 60)] * 2 + [(50, 80)] * 2
    for (_, heat), other in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(heat, other, atol=1e-4)


@pytest.mark.parametrize("method", ["grad_cam", "attention"])
def test_it_draws_a_row_for_each_photo(folder, tmp_path, method):
    out = tmp_path / "why.png"
    arguments = ["--model", folder / "model.keras", "--method", method]
    photos = [folder / "wide.png", folder / "tall.jpg"]
    status, printed, errors = run("explain", *photos, *arguments, "--output", out)
    assert (status, errors) == (0, "")
    assert f"2 images, {method}" in printed
    both = Image.open(out)
    assert run("explain", photos[0], *arguments, "--output", out)[0] == 0
    one = Image.open(out)
    assert both.width == one.width
    assert both.height == 2 * one.height
    # The photo, the scores, and a map for each class or one for all.
    cells = {"grad_cam": 5, "attention": 3}[method]
    assert one.width / one.height == pytest.approx(cells * 3 / 3.2, rel=0.01)


def test_unreadable_photos_are_listed(folder, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    out = tmp_path / "why.png"
    model = folder / "model.keras"
    status, printed, errors = run(
        "explain", bad, folder / "wide.png", "--model", model, "--output", out
    )
    assert (status, out.exists()) == (1, True)
    assert "1 images" in printed
    assert f"skipped {bad}" in errors
    out.unlink()
    status, printed, errors = run("explain", bad, "--model", model, "--output", out)
    assert (status, printed, out.exists()) == (1, "", False)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("model", ["--output", "why.jpg"], "Expected --output FILE.png"),
        ("model", ["--output", "none/why.png"], "Expected a folder that exists"),
        ("fused", [], "before `keras_cvt.deploy.fuse`"),
        ("pooled", ["--method", "attention"], "last stage has a class token"),
        ("none", [], "Expected one of cvt13"),
    ],
)
def test_a_wrong_call_is_one_sentence(
    folder, tmp_path, monkeypatch, model, arguments, message
):
    monkeypatch.chdir(tmp_path)
    status, printed, errors = run(
        "explain", folder / "wide.png", "--model", folder / f"{model}.keras", *arguments
    )
    assert (status, printed) == (1, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_it_names_the_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.chdir(tmp_path)
    status, _, errors = run(
        "explain", folder / "wide.png", "--model", folder / "model.keras"
    )
    assert status == 1
    assert "keras_cvt[train]" in errors


def test_too_many_photos_are_refused_before_the_model_is_loaded(folder):
    photos = [folder / "wide.png"] * 51
    status, _, errors = run("explain", *photos, "--model", "none.keras")
    assert (status, "at most 50 images" in errors) == (1, True)


def test_a_folder_of_photos(folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        write_image(photos / f"{i}.jpg", i)
    out = tmp_path / "why.png"
    model = folder / "model.keras"
    arguments = ["--top", 1, "--model", model, "--output", out]
    status, printed, _ = run("explain", photos, *arguments)
    assert (status, "3 images" in printed) == (0, True)
    status, printed, _ = run("explain", photos, *arguments, "--json")
    assert status == 0
    _, predicted, _ = run("predict", photos, "--top", 1, "--model", model, "--json")
    assert json.loads(printed) == json.loads(predicted)
