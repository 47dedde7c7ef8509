"""`keras_cvt.deploy.benchmark` and `keras-cvt benchmark`."""

import json
import re
import subprocess
import sys
import types

import keras
import networks
import pytest
from PIL import Image

from keras_cvt import deploy, preprocess_input
from keras_cvt.cli import main
from keras_cvt.deploy.measurements import Benchmark, Measurement

SIZES = [(90, 121), (70, 50), (64, 64), (100, 80)]
# One of each format is enough. `test_export.py` tests the others.
NAMES = ["fused", "tf_saved_model", "litert_int8", "onnx", "openvino"]

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="graphs are TensorFlow's"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    networks.save_classifier(folder / "model.keras")
    networks.save_photos(folder / "photos", SIZES)
    return folder


def benchmark(folder, *arguments):
    images = ["--images", str(folder / "photos")]
    return main(["benchmark", str(folder / "model.keras"), *images, *arguments])


@tensorflow_only
def test_every_file_is_kept_verified_tabled_and_drawn(folder, capsys):
    kept, plot = folder / "kept", folder / "plots" / "formats.png"
    arguments = ["--output", str(kept), "--plot", str(plot), "--batch-size", "2"]
    assert benchmark(folder, "--json", "--formats", *NAMES, *arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in answer["measurements"]] == ["keras", *NAMES]
    assert answer["passed"] and answer["image_size"] == [64, 64]
    assert answer["calibration"] == "the 4 compared images themselves"

    model = keras.models.load_model(folder / "model.keras")
    images = preprocess_input(sorted((folder / "photos").iterdir()), model)
    for row in answer["measurements"]:
        assert row["batch_size"] == 2 and row["images"] == 4 and row["passed"]
        assert row["ratio"] == row["images_per_second"] / row["model_images_per_second"]
        if row["format"] != "keras":
            result = deploy.verify(model, row["path"], images)
            assert row["max_difference"] == pytest.approx(
                result.max_difference, abs=2e-6
            )
            assert deploy.read_metadata(row["path"])["input"]["batch_size"] == 2
    assert Image.open(plot).format == "PNG"
    assert {file.name for file in kept.iterdir()} >= {"model.onnx", "model.xml"}


@tensorflow_only
@pytest.mark.parametrize("name", deploy.FORMATS)
def test_every_name_is_an_export_that_the_arguments_allow(folder, name, tmp_path):
    format, quantization, file = deploy.FORMATS[name]
    if format is None:
        assert file.endswith(".keras")
        return
    model = keras.models.load_model(folder / "model.keras")
    # Everything is right except the class names, which are checked last.
    with pytest.raises(ValueError, match="Expected 10 class names"):
        deploy.export(
            model,
            tmp_path / file,
            format,
            quantization,
            representative_images=networks.images(1, 64, 64, 3)
            if quantization == "int8"
            else None,
            class_names=["cat"],
        )


@tensorflow_only
def test_a_table_says_what_was_measured_on_what(folder, capsys):
    assert benchmark(folder, "--formats", "fused", "--batch-size", "4") == 0
    out = capsys.readouterr().out
    assert "4 images of 64 x 64, 4 per call, all threads" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["fused"][-1] == rows["keras"][-1] == "passed"
    assert rows["keras"][-2] == "100.00"
    assert "int8" not in out


@tensorflow_only
def test_a_file_that_computes_something_else_ends_with_1(folder, capsys, tmp_path):
    model = keras.models.load_model(folder / "model.keras")
    kernel = model.get_layer("head").kernel
    # Half precision is not enough for logits as large as these.
    kernel.assign(20 * kernel)
    model.save(tmp_path / "loud.keras")
    plot = tmp_path / "plot.png"
    arguments = ["--formats", "litert_float16", "--plot", str(plot)]
    assert main(["benchmark", str(tmp_path / "loud.keras"), *arguments]) == 1
    out = capsys.readouterr().out
    assert "litert_float16 FAILED: expected top-1 agreement >= 100.0%, diff" in out
    assert Image.open(plot).format == "PNG"


@tensorflow_only
def test_a_missing_runtime_is_named_with_its_extra_and_skipped(
    folder, capsys, monkeypatch
):
    for module in ("onnxruntime", "openvino", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    names = ["litert_float16", "onnx", "openvino"]
    assert benchmark(folder, "--formats", *names) == 0
    out = capsys.readouterr().out
    for name, extra in zip(names, ("litert", "onnx", "openvino"), strict=True):
        (line,) = (x for x in out.splitlines() if x.startswith(f"{name} was skipped."))
        assert f"keras_cvt[{extra}]" in line
    assert out.count("  skipped\n") == 3


@tensorflow_only
def test_a_missing_converter_is_named_with_its_extra_and_skipped(
    folder, capsys, monkeypatch, tmp_path
):
    (tmp_path / "tf2onnx.py").write_text("raise ImportError('not installed')")
    monkeypatch.syspath_prepend(tmp_path)
    assert benchmark(folder, "--json", "--formats", "onnx") == 0
    _, row = json.loads(capsys.readouterr().out)["measurements"]
    assert set(row) == {"name", "ratio", "skipped"}
    assert "tf2onnx" in row["skipped"] and "keras_cvt[onnx]" in row["skipped"]


def benchmark_of_two(folder, capsys):
    """Return the rows of ONNX, which fails, and of OpenVINO after it."""
    assert benchmark(folder, "--json", "--formats", "onnx", "openvino") == 1
    answer = json.loads(capsys.readouterr().out)
    first, failed, after = answer["measurements"]
    assert first["passed"] and not answer["passed"]
    assert failed["passed"] is False and failed["skipped"] is None
    return failed, after


@tensorflow_only
def test_a_converter_that_dies_is_reported_and_does_not_stop_the_others(
    folder, capsys, monkeypatch, tmp_path
):
    (tmp_path / "tf2onnx.py").write_text("import os; os._exit(7)")
    monkeypatch.syspath_prepend(tmp_path)
    failed, after = benchmark_of_two(folder, capsys)
    assert "Exporting model.onnx ended with status 7" in failed["failed"]
    assert after["passed"]


@tensorflow_only
def test_a_runtime_that_fails_is_reported_and_does_not_stop_the_others(
    folder, capsys, monkeypatch
):
    broken = types.ModuleType("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", broken)
    failed, after = benchmark_of_two(folder, capsys)
    assert "'onnxruntime' has no attribute" in failed["failed"]
    assert after["passed"]


def test_a_failed_measurement_is_in_the_table_with_its_reason():
    row = Measurement("onnx", None, failed="RuntimeError: no such operator")
    result = Benchmark((row,), 4, (64, 64), 1, None, None)
    assert not result.passed
    assert "onnx FAILED. RuntimeError: no such operator" in str(result)
    assert "skipped" not in str(result)


@tensorflow_only
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--formats", "tflite"], "`formats` must be one of.*Received: formats='tflit"),
        (["--plot", "plot.jpg"], r"Expected --plot FILE\.png. Received: plot\.jpg"),
        (["--batch-size", "5"], "at least one call. Received: 4 images, batch_size=5"),
        (["--representative", "missing.png"], "missing.png"),
        (["--size", "2"], "too small"),
        (["--threads", "1"], "TensorFlow has computed nothing.*threads=1"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(folder, capsys, arguments, message):
    assert benchmark(folder, *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("keras-cvt: ") and error.count("\n") == 1
    assert re.search(message, error)


def test_a_missing_matplotlib_names_its_extra_before_any_work(
    folder, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert benchmark(folder, "--plot", "plot.png") == 1
    error = capsys.readouterr().err
    assert "keras_cvt[train]" in error and error.count("\n") == 1


@tensorflow_only
def test_threads_are_tensorflows_too(folder):
    program = (
        "from keras_cvt.cli import main\n"
        f"main(['benchmark', {str(folder / 'model.keras')!r}, '--threads', '1',\n"
        "      '--formats', 'keras'])\n"
        "import tensorflow as tf\n"
        "print(tf.config.threading.get_intra_op_parallelism_threads())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert result.stdout.splitlines()[-1] == "1", result.stderr[-2000:]
    # Without --images, the images are synthetic.
    assert "8 images of 64 x 64, 1 per call, 1 threads" in result.stdout


@tensorflow_only
def test_a_file_that_is_there_already_is_not_replaced(folder, capsys):
    files = {file: file.read_bytes() for file in folder.glob("*.keras")}
    assert benchmark(folder, "--formats", "fused", "--output", str(folder)) == 1
    error = capsys.readouterr().err
    assert error.startswith("keras-cvt: Expected a folder without model.keras, fused.")
    assert error.endswith("which has model.keras\n")
    assert {file: file.read_bytes() for file in folder.glob("*.keras")} == files


@tensorflow_only
def test_a_keras_file_is_written_completely_or_not_at_all(
    folder, tmp_path, monkeypatch
):
    model = keras.models.load_model(folder / "model.keras")

    def half(path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(model, "save", half)
    with pytest.raises(OSError, match="No space left"):
        deploy.benchmark(model, networks.images(1, 64, 64, 3), tmp_path, ["keras"])
    assert not list(tmp_path.iterdir())


@tensorflow_only
def test_a_backbone_is_judged_only_by_differences(tmp_path):
    model = networks.build(
        networks.CONFIGS["as published"], include_top=False, pooling="avg"
    )
    images = networks.images(2, 64, 64, 3)
    result = deploy.benchmark(
        model,
        images,
        formats=["fused", "litert_int8"],
        representative_images=networks.images(3, 64, 64, 3, seed=1),
    )
    assert result.passed
    assert {m.verification.top1_agreement for m in result.measurements} == {None}
    assert "int8 was calibrated on 3 images of its own." in str(result)
    result.plot(tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").format == "PNG"


@pytest.mark.any_backend
@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="there it just exports"
)
def test_other_backends_say_which_command_benchmarks(folder, capsys):
    assert benchmark(folder) == 1
    error = capsys.readouterr().err
    assert "KERAS_BACKEND=tensorflow keras-cvt benchmark" in error


@tensorflow_only
def test_names_of_version_0_1_0_are_accepted(folder):
    model = keras.models.load_model(folder / "model.keras")
    images = networks.images(1, 64, 64, 3)
    result = deploy.benchmark(
        model, images, formats=["saved_model"], labels=[str(i) for i in range(10)]
    )
    names = [row.name for row in result.measurements]
    assert names == ["keras", "tf_saved_model"] and result.passed
