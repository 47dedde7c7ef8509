"""Predictions with Ray Data: the same rows, whatever dies."""

import json
import os
import shutil
import signal
import threading
import time

import keras
import pytest
import ray_cluster
from command_line import run
from image_folders import write_image
from test_classifier import network

from keras_cvt import deploy
from keras_cvt.inference import (
    classifier_of,
    predict_dataset,
    predict_files,
    predict_with_ray,
)

parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray.data")


@pytest.fixture(scope="module", autouse=True)
def ray():
    with ray_cluster.started() as module:
        yield module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m.keras"
    model = network()
    model.class_names = ["daisy", "rose", "tulip"]
    model.save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A hundred images, of which one cannot be read and one has a strange name."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(98):
        write_image(folder / f"{i // 40}" / f"{i:02}.png", i, (20 + i % 7, 30))
    (folder / "0" / "05x.png").write_bytes(b"no image")
    write_image(folder / "a.png")
    os.rename(folder / "a.png", os.fsencode(folder) + b"/\xff.png")
    return folder


@pytest.fixture(scope="module")
def expected(saved, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("expected") / "out.parquet"
    predict_files(classifier_of(saved), [photos], out, batch_size=2)
    return parquet.read_table(out)


def read(folder):
    return parquet.read_table(folder).sort_by("image")


@pytest.mark.parametrize("actors", [1, 2])
def test_the_rows_are_those_of_one_process(saved, photos, expected, tmp_path, actors):
    out = tmp_path / "out"
    failed = predict_with_ray(saved, [photos], out, actors=actors, batch_size=2)
    assert failed == 1
    # Bit for bit.
    assert read(out).equals(expected.sort_by("image"))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    with pytest.raises(FileExistsError, match="Expected a new folder"):
        predict_with_ray(saved, [photos], out)


def test_an_actor_that_is_killed_is_replaced(saved, tmp_path):
    """Its images are computed again, and none is missing or doubled."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    write_image(tmp_path / "photo.png", size=(1500, 1500))
    folder.mkdir()
    for i in range(160):
        shutil.copy(tmp_path / "photo.png", folder / f"{i:03}.png")
    killed = []

    def kill():
        # After the first block of 32 images, in the middle of the others.
        while not list(tmp_path.glob(".writing-*/new/out/*.parquet")):
            time.sleep(0.01)
        for process in ray_cluster.processes("ray::MapWorker"):
            os.kill(process, signal.SIGKILL)
            killed.append(process)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert predict_with_ray(saved, [folder], out, batch_size=1) == 0
    killer.join(timeout=10)
    assert killed
    names = read(out).column("image").to_pylist()
    assert names == [str(folder / f"{i:03}.png") for i in range(160)]


def test_a_table_of_encoded_images(ray, saved, photos, expected, tmp_path):
    """As a Parquet file of an object store has them."""
    import pyarrow

    rows = [name for name in expected.column("image").to_pylist() if "xff" not in name]
    contents = [open(name, "rb").read() for name in rows]
    table = pyarrow.table({"path": rows, "jpg": contents})
    parquet.write_table(table, tmp_path / "images.parquet")
    dataset = ray.data.read_parquet(str(tmp_path / "images.parquet"))
    found = predict_dataset(dataset, saved, images="jpg", batch_size=2)
    records = {row["image"]: row for row in found.take_all()}
    assert list(sorted(records)) == sorted(rows)
    for row in expected.to_pylist():
        if row["image"] in records and row["error"] is None:
            assert records[row["image"]]["labels"] == row["labels"]
            assert records[row["image"]]["scores"] == pytest.approx(
                row["scores"], abs=1e-6
            )
    errors = [row["error"] for row in records.values() if row["labels"] is None]
    assert len(errors) == 1 and "image" in errors[0]


def test_an_exported_file_needs_no_other_machines_disk(saved, photos, tmp_path):
    """The driver sends the model; the actors have no path of it."""
    exported = tmp_path / "model" / "m.onnx"
    exported.parent.mkdir()
    deploy.export(keras.models.load_model(saved), exported)
    one = tmp_path / "one.parquet"
    predict_files(classifier_of(exported, threads=1), [photos], one, batch_size=2)
    out = tmp_path / "out"
    predict_with_ray(exported, [photos], out, batch_size=2)
    assert read(out).equals(parquet.read_table(one).sort_by("image"))


def test_the_command(saved, photos, expected, tmp_path):
    out = tmp_path / "out"
    words = ["predict", photos, "--model", saved, "--batch-size", "2", "--json"]
    status, printed, _ = run(*words, "--ray", "local", "--output", out)
    assert status == 1
    assert json.loads(printed[printed.index("{") :])["skipped"] == 1
    assert read(out).equals(expected.sort_by("image"))
    status, _, errors = run(*words, "--ray", "local")
    assert status == 1 and "--ray with --output FOLDER" in errors
    status, _, errors = run(*words, "--actors", "2")
    assert status == 1 and "--actors with --ray" in errors


def test_wrong_calls_leave_nothing_behind(ray, saved, photos, tmp_path):
    out = tmp_path / "out"
    for arguments, message in (
        ({"actors": 0}, "actors=0"),
        ({"top": 0}, "top=0"),
        ({"sources": [photos, "s3://bucket/x"]}, "and not both"),
        ({"sources": []}, "at least one image"),
    ):
        with pytest.raises(ValueError, match=message):
            predict_with_ray(
                **{"model": saved, "sources": [photos], "output": out} | arguments
            )
    with pytest.raises(FileNotFoundError, match=r"none\.tflite"):
        predict_with_ray(tmp_path / "none.tflite", [photos], out)
    assert not list(tmp_path.iterdir())
    dataset = ray.data.from_items([{"other": 1}])
    with pytest.raises(Exception, match="Expected a data set with a column 'bytes'"):
        predict_dataset(dataset, saved).take_all()
