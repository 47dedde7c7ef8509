"""`deploy.export_in_subprocess` and `deploy.ExportProcess`."""

import os
import signal
import sys

import keras
import networks
import pytest

from keras_cvt import deploy
from keras_cvt.deploy import subprocess_export

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="graphs are TensorFlow's"
)
OPTIONS = {"image_size": (64, 64), "batch_size": 1}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("subprocess") / "model.keras"
    networks.save_classifier(file)
    return file


def process_of(exporter):
    """Return the number of the process that an exporter has, or None."""
    return exporter._process and exporter._process.pid


def is_gone(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_several_exports_share_a_process_which_the_block_ends(model_file, tmp_path):
    images = networks.images(2, 64, 64, 3)
    with deploy.ExportProcess() as exporter:
        exporter.export(model_file, tmp_path / "a.tflite", **OPTIONS)
        process = process_of(exporter)
        with pytest.raises(ValueError, match="Expected 10 class names"):
            exporter.export(model_file, tmp_path / "b.tflite", class_names=["cat"])
        exporter.export(
            model_file, tmp_path / "c.tflite", "litert", "int8", images, **OPTIONS
        )
        assert process_of(exporter) == process
    assert is_gone(process)
    alone = tmp_path / "alone.tflite"
    deploy.export_in_subprocess(model_file, alone, "litert", "int8", images, **OPTIONS)
    # What a process exported before makes no difference.
    model = keras.models.load_model(model_file)
    for name in ("a", "c", "alone"):
        assert deploy.verify(model, tmp_path / f"{name}.tflite", images).passed
    assert (tmp_path / "c.tflite").read_bytes() == alone.read_bytes()


def test_a_process_that_has_used_much_memory_is_replaced(
    model_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(subprocess_export, "_MOST_MEMORY", 2**20)
    with deploy.ExportProcess() as exporter:
        for name in ("a.tflite", "b.tflite"):
            exporter.export(model_file, tmp_path / name, **OPTIONS)
            assert process_of(exporter) is None
            assert (tmp_path / name).is_file()


def test_a_process_that_is_killed_is_replaced(model_file, tmp_path):
    with deploy.ExportProcess() as exporter:
        with pytest.raises(ValueError, match="Expected 10 class names"):
            exporter.export(model_file, tmp_path / "model", class_names=["cat"])
        os.kill(process_of(exporter), signal.SIGKILL)
        with pytest.raises(ChildProcessError, match=r"model\.onnx .* status -9"):
            exporter.export(model_file, tmp_path / "model.onnx")
        exporter.export(model_file, tmp_path / "model.tflite", **OPTIONS)
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]


def test_an_export_fails_as_it_would_in_this_process(model_file, tmp_path):
    with pytest.raises(ValueError, match="Expected 10 class names"):
        deploy.export_in_subprocess(
            model_file, tmp_path / "saved_model", class_names=["cat"]
        )
    with pytest.raises(ChildProcessError, match="unexpected keyword argument 'colour'"):
        deploy.export_in_subprocess(model_file, tmp_path / "saved_model", colour="red")
    assert not list(tmp_path.iterdir())


def test_a_subprocess_imports_what_this_process_would(
    model_file, tmp_path, monkeypatch
):
    (tmp_path / "keras.py").write_text("raise ImportError('a stranger was imported')")
    outside = [path for path in sys.path if path not in ("", str(tmp_path))]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", outside)
    file = tmp_path / "saved_model"
    with pytest.raises(ValueError, match="Expected 10 class names"):
        deploy.export_in_subprocess(model_file, file, class_names=["cat"])
    # The path of a program in this folder, or of an interpreter started here.
    monkeypatch.setattr(sys, "path", ["", *outside])
    with pytest.raises(ChildProcessError, match="a stranger was imported"):
        deploy.export_in_subprocess(model_file, file, class_names=["cat"])
