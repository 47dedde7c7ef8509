"""`deploy.export_in_subprocess`, and the process that several exports share."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import networks
import pytest

from keras_cvt import deploy
from keras_cvt.deploy import subprocess_export
from keras_cvt.deploy.subprocess_export import ExportProcess

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


def is_gone(process, seconds=0.0):
    """Return whether a process ends in time."""
    end = time.monotonic() + seconds
    while True:
        try:
            status = Path(f"/proc/{process}/stat").read_text()
        except FileNotFoundError:
            return True
        # Dead, but nobody has asked how it ended.
        if status.rpartition(")")[2].split()[0] == "Z":
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def ask_in_vain(exporter, model_file, path):
    """Let an exporter start its process, with a call that it refuses."""
    with pytest.raises(ValueError, match="Expected 10 class names"):
        exporter.export(model_file, path, class_names=["cat"])
    return process_of(exporter)


def test_several_exports_share_a_process_which_the_block_ends(model_file, tmp_path):
    images = networks.images(2, 64, 64, 3)
    int8 = {"quantization": "int8", "representative_images": images}
    with ExportProcess() as exporter:
        exporter.export(model_file, tmp_path / "a.tflite", **OPTIONS)
        process = process_of(exporter)
        assert ask_in_vain(exporter, model_file, tmp_path / "b.tflite") == process
        exporter.export(model_file, tmp_path / "c.tflite", **int8, **OPTIONS)
        exporter.export(model_file, tmp_path / "d.tflite", **OPTIONS)
        assert process_of(exporter) == process
    assert is_gone(process)
    alone = tmp_path / "alone.tflite"
    deploy.export_in_subprocess(model_file, alone, **int8, **OPTIONS)
    # What a process exported before makes no difference.
    assert (tmp_path / "c.tflite").read_bytes() == alone.read_bytes()
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "d.tflite").read_bytes()
    model = keras.models.load_model(model_file)
    for file in (tmp_path / "d.tflite", alone):
        assert deploy.verify(model, file, images).passed


def test_what_exports_share_is_of_the_same_network_and_shape(tmp_path):
    file, images = tmp_path / "model.keras", networks.images(2, 64, 64, 3)
    networks.save_classifier(file)

    def export(exporter, name, model, **arguments):
        path, arguments = tmp_path / name, OPTIONS | arguments
        exporter.export(file, path, **arguments)
        assert deploy.verify(model, path, images).passed
        facts = deploy.read_metadata(path)
        assert facts["fused"] is arguments.get("fuse", True)
        assert facts["input"]["batch_size"] == arguments["batch_size"]
        return path

    with ExportProcess() as exporter:
        model = keras.models.load_model(file)
        first = export(exporter, "first.tflite", model)
        folder = exporter._conversions
        (saved,) = folder.glob("*/fused_1x64x64x3/network/saved_model.pb")
        written = saved.stat()
        export(exporter, "two.tflite", model, batch_size=2)
        half = export(exporter, "half.xml", model, quantization="float16")
        # It was converted once.
        assert saved.stat() == written
        export(exporter, "unfused.tflite", model, fuse=False)
        # The same path and other weights.
        head = model.get_layer("head")
        head.set_weights([weight + 0.1 for weight in head.get_weights()])
        model.save(file)
        second = export(exporter, "second.tflite", model)
        shapes = sorted(path.parent.name for path in folder.glob("*/*/network"))
    assert first.read_bytes() != second.read_bytes()
    shape = "fused_1x64x64x3"
    assert shapes == [shape, shape, "fused_2x64x64x3", f"un{shape}"]
    files = {"first.tflite", "half.bin", "half.xml", "model.keras", "second.tflite"}
    files |= {"two.tflite", "unfused.tflite"}
    assert {path.name for path in tmp_path.iterdir()} == files
    # A file does not tell where it was made.
    assert str(tmp_path) not in half.read_text()


def test_a_model_saved_as_a_folder_is_read_each_time(tmp_path):
    """Nobody can tell by the folder whether its weights are the same."""
    networks.save_classifier(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    images = networks.images(2, 64, 64, 3)
    with ExportProcess() as exporter:
        for name in ("a.xml", "b.xml"):
            # Keras does not write over a folder.
            shutil.rmtree(tmp_path / "model", ignore_errors=True)
            (tmp_path / "model").mkdir()
            keras.saving.save_model(model, tmp_path / "model", zipped=False)
            exporter.export(tmp_path / "model", tmp_path / name, **OPTIONS)
            assert deploy.verify(model, tmp_path / name, images).passed
            head = model.get_layer("head")
            head.set_weights([weight + 0.1 for weight in head.get_weights()])


def test_a_process_that_holds_much_memory_is_replaced(
    model_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(subprocess_export, "_MOST_MEMORY", 2**20)
    started, ask = [], ExportProcess._ask

    def noted(exporter, line):
        started.append(process_of(exporter))
        return ask(exporter, line)

    monkeypatch.setattr(ExportProcess, "_ask", noted)
    with ExportProcess() as exporter:
        for _ in range(2):
            with pytest.raises(ValueError, match="Expected 10 class names"):
                exporter.export(model_file, tmp_path / "model", class_names=["cat"])
            assert process_of(exporter) is None
    assert len(set(started)) == 2
    assert all(map(is_gone, started))


def test_a_process_that_is_killed_is_replaced(model_file, tmp_path):
    with ExportProcess() as exporter:
        killed = ask_in_vain(exporter, model_file, tmp_path / "model")
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(ChildProcessError) as caught:
            exporter.export(model_file, tmp_path / "model.onnx")
        # Nothing of what it printed before.
        assert str(caught.value) == "Exporting model.onnx ended with status -9: "
        exporter.export(model_file, tmp_path / "model.tflite", **OPTIONS)
        assert process_of(exporter) != killed
    assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]


def test_an_interrupt_ends_the_process_and_the_next_export_has_another(
    model_file, tmp_path, monkeypatch
):
    def interrupted(line):
        monkeypatch.undo()
        raise KeyboardInterrupt

    with ExportProcess() as exporter:
        first = ask_in_vain(exporter, model_file, tmp_path / "model")
        monkeypatch.setattr(exporter, "_ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            exporter.export(model_file, tmp_path / "model")
        assert process_of(exporter) is None and is_gone(first)
        assert ask_in_vain(exporter, model_file, tmp_path / "model") != first


def test_a_process_ends_with_its_parent_also_in_the_middle_of_an_export(
    model_file, tmp_path
):
    program = (
        "import sys\n"
        "from keras_cvt.deploy.subprocess_export import ExportProcess\n"
        "with ExportProcess() as exporter:\n"
        "    try:\n"
        "        exporter.export(sys.argv[1], 'x.tflite', class_names=['cat'])\n"
        "    except ValueError:\n"
        "        print(exporter._process.pid, flush=True)\n"
        "    exporter.export(sys.argv[1], 'x.tflite')\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(model_file)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    with parent:
        process = int(parent.stdout.readline())
        # While it exports, which takes seconds.
        time.sleep(0.5)
        parent.kill()
    assert is_gone(process, 10)
    assert not (tmp_path / "x.tflite").exists()


def test_relative_paths_are_those_of_the_current_folder(
    model_file, tmp_path, monkeypatch
):
    with ExportProcess() as exporter:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            monkeypatch.chdir(tmp_path / name)
            file = os.path.relpath(model_file)
            exporter.export(file, "model.tflite", **OPTIONS)
            assert (tmp_path / name / "model.tflite").is_file()


def test_what_is_printed_is_no_answer(model_file, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("print('hello', flush=True)")
    (tmp_path / "h5py.py").write_text(
        "import os, sys\n"
        "os.write(1, b'{\"error\": 1}\\n')\n"
        "assert not sys.stdin.read()\n"
        f"sys.path.remove({str(tmp_path)!r})\n"
        "del sys.modules['h5py']\n"
        "import h5py\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with ExportProcess() as exporter:
        ask_in_vain(exporter, model_file, tmp_path / "model")


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
