"""`export` with format "fastest", `keras-cvt export --fastest`, OpenVINO's bfloat16."""

import dataclasses
import json
import os
import sys

import keras
import networks
import numpy as np
import pytest

from keras_cvt import deploy, preprocess_input
from keras_cvt.cli import main
from keras_cvt.deploy import export, formats
from keras_cvt.deploy.fastest import drop, keeps
from keras_cvt.deploy.verification import Verification

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)
IMAGES = networks.images(8, 64, 64, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fastest")
    networks.save_classifier(folder / "model.keras")
    networks.save_photos(folder / "photos", [(90, 121), (70, 50), (64, 64)])
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return keras.models.load_model(folder / "model.keras")


def regression(input_shape=(64, 64, 3)):
    network = networks.build(networks.CONFIGS["linear"], input_shape=input_shape)
    network.output_kind = "regression"
    return network


def files_in(folder):
    return {os.fspath(path.relative_to(folder)) for path in folder.rglob("*")}


def command(folder, out, *arguments):
    model, images = str(folder / "model.keras"), str(folder / "photos")
    return main(
        ["export", model, str(out), "--fastest", "--images", images, *arguments]
    )


@tensorflow_only
def test_only_the_fastest_of_all_candidates_is_kept(folder, model, tmp_path, capsys):
    # Two images per call, and one that is left over.
    arguments = ["--batch-size", "2", "--json"]
    assert command(folder, tmp_path / "new" / "cvt-1.0", *arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in answer["candidates"]}
    assert list(rows) == list(formats.candidates())
    kept = [row for row in rows.values() if row["verdict"] in ("chosen", "slower")]
    # One of another precision may not run on some processor.
    assert len(kept) >= len({v.format.name for v in formats.candidates().values()})
    assert all(row["drop"] == 0 and row["size_bytes"] > 0 for row in kept)
    best = min(kept, key=lambda row: row["milliseconds"])
    assert [row for row in kept if row["verdict"] == "chosen"] == [best]
    assert answer["chosen"] == best["name"] and answer["passed"]
    chosen = formats.find_variant(best["name"])
    path = tmp_path / "new" / f"cvt-1.0{chosen.format.suffix}"
    assert answer["path"] == str(path)
    # Nothing of the others stays.
    names = {path.name, *(path.stem + end for end in chosen.format.companions)}
    assert {file.name for file in path.parent.iterdir()} == names
    metadata = deploy.read_metadata(path)
    assert metadata["quantization"] == chosen.quantization and metadata["fused"]
    assert metadata["input"]["batch_size"] == 2
    images = preprocess_input(sorted((folder / "photos").iterdir()), model)
    assert deploy.verify(model, path, images).top1_agreement == 1


@tensorflow_only
def test_a_suffix_limits_the_candidates_to_its_format(model, tmp_path):
    (tmp_path / "best.onnx").write_bytes(b"earlier")
    found = export(
        model, tmp_path / "best.onnx", "fastest", images=IMAGES, class_names=range(10)
    )
    assert found == deploy.read_metadata(tmp_path / "best.onnx")
    assert isinstance(found, deploy.Fastest)
    assert (found.path, found.chosen) == (tmp_path / "best.onnx", "onnx")
    assert found["class_names"] == list(map(str, range(10))) and found.passed
    assert files_in(tmp_path) == {"best.onnx"}
    text = str(found)
    assert f"Kept onnx as {found.path}, the fastest with at most 0.1 % other" in text
    assert "8 images of 64 x 64, 1 per call, all threads" in text
    assert "8 images show no drop below 12 %." in text


@tensorflow_only
def test_candidates_that_fail_are_listed_in_one_line(model, tmp_path, monkeypatch):
    """The other candidates go on."""
    (tmp_path / "broken").mkdir()
    program = "raise RuntimeError('first line\\nsecond line')"
    (tmp_path / "broken" / "ai_edge_quantizer.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path / "broken")
    found = export(model, tmp_path / "new" / "m.tflite", "fastest", images=IMAGES)
    rows = {row["name"]: row for row in found.to_dict()["candidates"]}
    assert found.chosen in ("litert", "litert_float16")
    assert rows["litert_int8"]["verdict"] == "FAILED"
    failed = [line for line in str(found).splitlines() if "FAILED: " in line]
    assert len(failed) == 2
    assert all("Received: RuntimeError: first line" in line for line in failed)
    assert files_in(tmp_path / "new") == {"m.tflite"}


@tensorflow_only
def test_if_all_fail_the_earlier_file_stays(model, tmp_path, monkeypatch):
    (tmp_path / "tf2onnx.py").write_text("import os; os._exit(7)")
    (tmp_path / "m.onnx").write_bytes(b"earlier")
    before = files_in(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(deploy.ExportError, match="No candidate.*onnx.*status 7"):
        export(model, tmp_path / "m.onnx", "fastest", images=IMAGES)
    assert files_in(tmp_path) == before
    assert (tmp_path / "m.onnx").read_bytes() == b"earlier"


@tensorflow_only
def test_without_the_extras_the_saved_model_is_kept_and_they_are_named(
    folder, tmp_path, monkeypatch, capsys
):
    for module in ("onnxruntime", "openvino", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    assert command(folder, tmp_path / "m") == 0
    out = capsys.readouterr().out
    assert "Kept tf_saved_model as" in out
    assert (tmp_path / "m" / "saved_model.pb").is_file()
    assert [file.name for file in tmp_path.iterdir()] == ["m"]
    for name in formats.candidates():
        extra = name.split("_")[0]
        if extra != "tf":
            (line,) = (x for x in out.splitlines() if x.startswith(f"{name} skipped: "))
            assert f"keras_cvt[{extra}]" in line
    assert command(folder, tmp_path / "m.xml") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "No candidate runs here." in error and "keras_cvt[openvino]" in error


@tensorflow_only
def test_if_none_keeps_the_limit_float32_is_kept_and_it_says_so(tmp_path):
    model = regression()
    found = export(model, tmp_path / "m.xml", "fastest", images=IMAGES, max_drop=0)
    assert found.chosen == "openvino" and not found.passed
    assert found["quantization"] is None
    assert files_in(tmp_path) == {"m.xml", "m.bin"}
    rows = {row["name"]: row for row in found.to_dict()["candidates"]}
    assert rows["openvino_float16"]["verdict"] == "over the limit"
    assert 0 < rows["openvino"]["drop"] < rows["openvino_float16"]["drop"]
    text = str(found)
    assert "the fastest in float32: none has at most 0 % relative error." in text
    assert "show no drop" not in text
    images = networks.images(3, 64, 64, 3, seed=1)
    assert deploy.verify(model, found.path, images).passed


@tensorflow_only
def test_a_limit_that_none_keeps_ends_with_1(folder, tmp_path, capsys):
    model = keras.models.load_model(folder / "model.keras")
    head = model.get_layer("head")
    # Only the last digit decides between the classes, and each runtime has its own.
    kernel = np.repeat(head.kernel.numpy()[:, :1], 10, axis=1)
    noise = np.random.default_rng(0).normal(0, 1e-8, kernel.shape)
    head.set_weights([kernel + noise, np.zeros(10)])
    model.save(tmp_path / "model.keras")
    networks.save_photos(tmp_path / "photos", [(64, 64)] * 8)
    assert command(tmp_path, tmp_path / "m.onnx", "--max-drop", "0") == 1
    assert "onnx" in capsys.readouterr().out
    assert (tmp_path / "m.onnx").is_file()


@tensorflow_only
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": None}, "Expected `images`.*Received: images=None"),
        ({"images": IMAGES[:0]}, "at least one image"),
        ({"images": IMAGES / 255}, "Expected pixels of 0-255"),
        ({"batch_size": 9}, "at least one call. Received: 8 images, batch_size=9"),
        ({"batch_size": "dynamic"}, "batch_size='dynamic'"),
        ({"max_drop": -1}, "`max_drop` must be a number of at least 0.*=-1"),
        ({"max_drop": float("nan")}, "max_drop=nan"),
        ({"max_drop": "1"}, "max_drop='1'"),
        ({"quantization": "int8"}, "'quantization': 'int8'"),
        ({"fuse": False}, "must be.*Received.*'fuse': False"),
        ({"image_size": (64, 64)}, r"'image_size': \(64, 64\)"),
        ({"top": 3}, "'top': 3"),
        ({"path": "taken"}, "holds something else"),
        ({"path": "m.keras"}, "without the suffix of a file"),
        ({"class_names": ["cat"]}, "Expected 10 class names"),
        ({"representative_images": IMAGES[:, :9]}, r"shape=\(8, 9, 64, 3\)"),
        ({"format": "onnx"}, "only for format='fastest'. Received: format='onnx'"),
    ],
)
def test_wrong_arguments_are_refused_before_any_export(
    model, tmp_path, arguments, message
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    before = files_in(tmp_path)
    arguments = {"format": "fastest", "images": IMAGES, "path": "m"} | arguments
    path = tmp_path / arguments.pop("path")
    with pytest.raises(ValueError, match=message):
        export(model, path, **arguments)
    assert files_in(tmp_path) == before


@tensorflow_only
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fastest"], "Expected --images IMAGE"),
        (["--max-drop", "1"], "--max-drop and --threads with --fastest only"),
        (["--threads", "1"], "--max-drop and --threads with --fastest only"),
        (["--fastest", "--images", "{}", "--quantization", "int8"], "--quantization"),
        (["--fastest", "--images", "{}", "--no-verify"], "--no-verify"),
        (["--fastest", "--images", "{}", "--size", "dynamic"], "`dynamic`"),
        (["--fastest", "--images", "{}", "--max-drop", "-1"], "at least 0"),
        (["--fastest", "--images", "missing.png"], "missing.png"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    folder, tmp_path, capsys, arguments, message
):
    given = [word.format(folder / "photos") for word in arguments]
    model, out = str(folder / "model.keras"), str(tmp_path / "m.onnx")
    assert main(["export", model, out, *given]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert files_in(tmp_path) == set()


def test_fastest_is_no_format_beside_another(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", "cvt13", "m", "--fastest", "--format", "onnx"])
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.any_backend
@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="there it just exports"
)
def test_other_backends_say_which_command_exports(model, tmp_path):
    with pytest.raises(ValueError, match="keras-cvt export model.keras .* --fastest"):
        export(model, tmp_path / "m", "fastest", images=IMAGES)


CLASSES = Verification(
    path="m",
    format="onnx",
    quantization=None,
    images=1000,
    max_difference=0.1,
    mean_difference=0.1,
    cosine=0.99,
    overall_cosine=0.99,
    top1_agreement=0.999,
    top5_agreement=1.0,
    size_bytes=1,
    images_per_second=1.0,
    model_images_per_second=1.0,
    batch_size=1,
    tolerance="",
    passed=False,
)
NO_CLASSES = {"top1_agreement": None, "top5_agreement": None}


@pytest.mark.parametrize(
    ("changes", "percent", "limit", "kept"),
    [
        ({}, 0.1, 0.1, True),  # one image of 1000
        ({"top1_agreement": 0.998}, 0.2, 0.1, False),
        ({"top1_agreement": 1.0}, 0, 0, True),
        # The best class alone may be the same by chance.
        ({"top1_agreement": 1.0, "overall_cosine": 0.5}, 0, 100, False),
        ({"top1_agreement": 1.0, "overall_cosine": float("nan")}, 0, 100, False),
        ({"threshold_agreement": 0.95, **NO_CLASSES}, 5, 4, False),
        ({"threshold_agreement": 0.95, **NO_CLASSES}, 5, 5, True),
        ({"relative_error": 0.02, **NO_CLASSES, "overall_cosine": 0.9}, 2, 2, True),
        ({"relative_error": 0.02, **NO_CLASSES}, 2, 1.9, False),
    ],
)
def test_the_limit_is_percent_of_the_answers_or_of_the_error(
    changes, percent, limit, kept
):
    seen = dataclasses.replace(CLASSES, **changes)
    assert drop(seen) == percent and keeps(seen, limit) is kept


def test_an_error_that_is_no_number_keeps_no_limit():
    changes = {"relative_error": float("nan"), **NO_CLASSES}
    assert not keeps(dataclasses.replace(CLASSES, **changes), 100)


@tensorflow_only
def test_openvino_runs_each_file_in_its_own_precision(tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino")
    hints, compile_model = [], openvino.compile_model

    def recorded(path, device, options):
        hints.append(options["INFERENCE_PRECISION_HINT"])
        return compile_model(path, device, options)

    monkeypatch.setattr(openvino, "compile_model", recorded)
    model = networks.build(networks.CONFIGS["as published"], input_shape=(64, 64, 3))
    for name in ("openvino", "openvino_float16", "openvino_bfloat16"):
        metadata = export(model, tmp_path / f"{name}.xml", name)
        result = deploy.verify(model, tmp_path / f"{name}.xml", IMAGES)
        assert result.passed and result.quantization == metadata["quantization"]
    assert hints == ["f32", "f32", "bf16"]
    assert "top-1 agreement >= 99.5%, overall cosine >= 0.95" in str(result)


@tensorflow_only
def test_what_openvino_cannot_run_is_one_clear_error(tmp_path, monkeypatch, capsys):
    openvino = pytest.importorskip("openvino")

    def fail(*arguments):
        raise RuntimeError("Exception from core.cpp:132:\nNo kernel for AvgPool\n\n")

    # Which operators a precision has depends on the processor.
    monkeypatch.setattr(openvino, "compile_model", fail)
    networks.save_classifier(tmp_path / "model.keras")
    arguments = ["export", str(tmp_path / "model.keras"), str(tmp_path / "m.xml")]
    assert main([*arguments, "--quantization", "bfloat16"]) == 1
    error = capsys.readouterr().err
    assert "m.xml on this processor with INFERENCE_PRECISION_HINT=bf16" in error
    assert error.endswith("Received: No kernel for AvgPool\n")
