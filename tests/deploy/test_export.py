import dataclasses
import importlib.util
import io
import os
import subprocess
import sys

import export_worker
import keras
import networks
import numpy as np
import pytest
from networks import CONFIGS
from PIL import Image

import keras_cvt
from keras_cvt.deploy import (
    FORMATS,
    export,
    formats,
    read_metadata,
    tensorflow_graphs,
    verify,
)
from keras_cvt.deploy.file_format import Runtime
from keras_cvt.deploy.metadata import describe
from keras_cvt.deploy.verification import compare
from keras_cvt.description import ModelDescription

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="graphs are TensorFlow's"
)
# Largest difference of a logit on photos.
TOLERANCES = {None: 1e-4, "float16": 1e-2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export_worker.run(folder)
    return folder


@pytest.fixture
def model():
    return networks.build(CONFIGS["as published"])


@pytest.mark.parametrize("file", export_worker.FILES)
def test_every_file_computes_what_its_model_computes(folder, file):
    # Three images: more than a batch of one, not a multiple of a batch of two.
    images = networks.images(3, 64, 64, 3)
    result = verify(export_worker.model(file), folder / file, images)
    assert result.passed, result
    if result.quantization is None:
        assert result.max_difference <= 2e-5
    assert result.cosine > (0.99 if result.quantization == "int8" else 0.999)


@pytest.fixture(scope="module")
def cvt13(tmp_path_factory):
    """Return a folder with CvT-13's files."""
    folder = tmp_path_factory.mktemp("cvt13")
    export_worker.run(folder, "cvt13")
    return folder


@pytest.mark.full_size
def test_cvt13_agrees_on_photos_in_every_format(cvt13):
    from skimage import data

    model = export_worker.full_size_model()
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    images = keras_cvt.preprocess_input(photos, model)
    for _, quantization, file in map(FORMATS.get, export_worker.FULL_SIZE):
        if quantization in TOLERANCES:
            result = verify(model, cvt13 / file, images)
            assert result.top1_agreement == 1.0, result
            assert result.max_difference <= TOLERANCES[quantization], result


@pytest.mark.full_size
def test_cvt13_in_8_bits_is_little_more_than_a_quarter_of_its_float32_file(cvt13):
    sizes = {
        name: (cvt13 / FORMATS[name][-1]).stat().st_size
        for name in ("litert", "litert_dynamic_int8", "litert_int8")
    }
    assert sizes["litert_dynamic_int8"] <= 0.28 * sizes["litert"]
    assert sizes["litert_int8"] <= 0.28 * sizes["litert"]


def test_files_carry_their_metadata(folder):
    for file, (_, format, arguments) in export_worker.FILES.items():
        metadata = read_metadata(folder / file)
        assert metadata["source_weights"] == "made up"
        assert metadata["format"] == format
        assert metadata["quantization"] == arguments.get("quantization")
        assert metadata["fused"] == arguments.get("fuse", True)
        assert metadata["class_names"] == arguments.get("class_names")
        # What programs of version 0.1.0 read.
        assert metadata["labels"] == metadata["class_names"]
        assert metadata["input"]["range"] == [0, 255]
        assert metadata["outputs"] == "logits"
        assert metadata["versions"]["keras"] == keras.__version__


@pytest.mark.parametrize("file", export_worker.FILES)
def test_metadata_is_the_models_own_description(folder, file):
    metadata = read_metadata(folder / file)
    found = ModelDescription.from_dict(metadata)
    names = export_worker.FILES[file][2].get("class_names")
    expected = export_worker.model(file).description.replace(
        source_weights="made up", class_names=names
    )
    if file != "any_size.tflite":
        expected = expected.replace(
            image_size=(64, 64), eval_transform=expected.eval_transform.at_size(64, 64)
        )
    assert found == expected
    batch_sizes = {"avg.onnx": 2, "any_size.tflite": None}
    default = 1 if file.endswith(".tflite") else None
    assert metadata["input"]["batch_size"] == batch_sizes.get(file, default)


@tensorflow_only
def test_class_names_and_origin_are_the_models_unless_given(model, tmp_path):
    path, names = tmp_path / "m", list("abcdefghij")
    model.class_names, model.source_weights = names, "mine"
    metadata = export(model, path, image_size=(64, 64))
    assert metadata == read_metadata(path)
    assert (metadata["class_names"], metadata["source_weights"]) == (names, "mine")
    for argument in ("class_names", "labels"):
        given = {argument: names[::-1], "source_weights": "yours"}
        metadata = export(model, path, image_size=(64, 64), **given)
        assert metadata["class_names"] == metadata["labels"] == names[::-1]
        assert metadata["source_weights"] == "yours"


def test_1000_classes_without_names_get_those_of_imagenet():
    config = keras_cvt.CvTConfig((keras_cvt.StageConfig(8, 1, 1, 7, 4, 2),))
    model = keras_cvt.CvT(config, input_shape=(32, 32, 3))
    assert describe(model).class_names[0] == "tench"
    model.class_names = [f"class {i}" for i in range(1000)]
    assert describe(model).class_names[0] == "class 0"


def test_class_names_of_a_model_without_classes_are_ignored():
    model = networks.build(CONFIGS["as published"], include_top=False)
    assert describe(model, ["cat", "dog"]).class_names is None


def test_a_file_for_any_size_takes_any_size(folder):
    runtime = formats.open_file(folder / "any_size.tflite")
    images = networks.images(2, 50, 71, 3)
    expected = export_worker.model("any_size.tflite").predict(images, verbose=0)
    (found,) = runtime.call(images)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_litert_files_use_builtin_operators_only_and_compute_no_shapes(folder):
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    for path in folder.glob("*.tflite"):
        interpreter = litert.Interpreter(str(path))
        operators = {op["op_name"] for op in interpreter._get_ops_details()}
        assert not [name for name in operators if "Flex" in name or "CUSTOM" in name]
        if path.name != "any_size.tflite":
            assert not operators & {"SHAPE", "GATHER", "PACK"}


@pytest.mark.parametrize("file, blocks", [("model.onnx", 3), ("gelu.onnx", 2)])
def test_onnx_files_hold_each_blocks_norms_as_one_operator(folder, file, blocks):
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(folder / file).graph.node
    assert [n.op_type for n in nodes].count("LayerNormalization") == 2 * blocks


def encoded(size, format):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype="uint8"))
    # Smooth like a photo: the decoders' rounding is not tested here.
    image = image.resize((8, 8)).resize(size[::-1], Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 95} if format == "JPEG" else {}))
    return buffer.getvalue()


@tensorflow_only
def test_encoded_images_are_answered_with_class_names_and_scores(folder):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "saved_model"))
    files = [encoded((90, 120), "JPEG"), encoded((300, 240), "PNG")]
    model = export_worker.model("saved_model")
    # The file's size, not the model's.
    transform = keras_cvt.preprocessing.EvalTransform((64, 64), 0.875)
    images = keras_cvt.preprocess_input(
        [Image.open(io.BytesIO(file)) for file in files], transform
    )
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(model.predict(images)))
    answer = loaded.signatures["classify_encoded"](encoded=tf.constant(files))
    for i, row in enumerate(expected):
        best = np.argsort(-row)[:5]
        np.testing.assert_allclose(answer["scores"][i], row[best], atol=0.01)
        if row[best[0]] - row[best[1]] > 0.02:
            assert answer["labels"][i, 0].numpy().decode() == "abcdefghij"[best[0]]


@tensorflow_only
def test_a_large_network_is_saved_with_variables(model, tmp_path, monkeypatch):
    # TensorFlow copies constants when it loads the file.
    monkeypatch.setattr(tensorflow_graphs, "_LARGEST_CONSTANTS", 0)
    model.class_names = list("abcdefghij")
    export(model, tmp_path / "m", image_size=(64, 64))
    assert read_metadata(tmp_path / "m")["class_names"] == list("abcdefghij")
    weights = sum(weight.value.numpy().nbytes for weight in model.weights)
    sizes = [f.stat().st_size for f in (tmp_path / "m" / "variables").iterdir()]
    assert sum(sizes) > 0.9 * weights
    result = verify(model, tmp_path / "m", networks.images(3, 64, 64, 3))
    assert result.passed, result


@tensorflow_only
@pytest.mark.parametrize(
    "bad",
    [
        *(b"", b"no image", encoded((90, 120), "JPEG")[:200]),
        # Pillow reads these, but TensorFlow reads them differently or not at all.
        *(encoded((90, 120), name) for name in ("GIF", "BMP", "TIFF", "WEBP")),
        # The header of a PNG of 20,000 x 20,000 pixels; the rest is not reached.
        encoded((90, 120), "PNG")[:16] + 2 * b"\0\0\x4e\x20" + b"\x08\2\0\0\0",
    ],
)
def test_bytes_that_are_not_an_image_fail_only_their_request(folder, bad):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder / "saved_model"))
    classify = loaded.signatures["classify_encoded"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        classify(encoded=tf.constant([bad]))
    good = tf.constant([encoded((90, 120), "PNG")])
    assert classify(encoded=good)["labels"].shape == (1, 5)


@tensorflow_only
def test_a_full_disk_leaves_only_the_earlier_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"earlier")

    def write(network, target, options):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    broken = dataclasses.replace(formats.FORMATS["litert"], write=write)
    monkeypatch.setitem(formats.FORMATS, "litert", broken)
    with pytest.raises(OSError, match="No space left"):
        export(model, path, "litert")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


@tensorflow_only
def test_a_saved_model_replaces_an_earlier_one_but_no_other_folder(model, tmp_path):
    for _ in range(2):
        export(model, tmp_path / "model", image_size=(64, 64))
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(ValueError, match="something else"):
        export(model, tmp_path / "other")


@tensorflow_only
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"format": "tflite"}, "`format` must be one of.*Received: format='tflite'"),
        ({"quantization": "int4"}, "quantization='int4'"),
        ({"format": "onnx", "path": "m.onnx", "quantization": "int8"}, "'onnx'"),
        ({"path": "m.lite"}, r"ends in \.tflite"),
        ({"quantization": "int8"}, "representative_images"),
        ({"quantization": "int8", "representative_images": []}, r"shape=\(0,\)"),
        (
            {"quantization": "int8", "representative_images": np.ones((4, 32, 32, 3))},
            r"shape=\(4, 32, 32, 3\)",
        ),
        ({"representative_images": np.ones((4, 64, 64, 3))}, "only for litert_int8"),
        ({"class_names": ["cat"]}, "Expected 10 class names"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"image_size": 64}, "image_size=64"),
        ({"image_size": (2, 2)}, "too small"),
    ],
)
def test_wrong_arguments_are_refused(model, tmp_path, arguments, message):
    arguments = {"path": "m.tflite", "format": "litert"} | arguments
    path = tmp_path / arguments.pop("path")
    arguments = {"image_size": (64, 64)} | arguments
    with pytest.raises(ValueError, match=message):
        export(model, path, **arguments)
    assert not list(tmp_path.iterdir())


@tensorflow_only
def test_a_model_that_is_not_a_cvt_is_refused(tmp_path):
    inputs = keras.Input((64, 64, 3))
    other = keras.Model(inputs, keras.layers.Conv2D(1, 3)(inputs))
    with pytest.raises(ValueError, match="Expected a CvTModel"):
        export(other, tmp_path / "m.tflite", "litert")


@tensorflow_only
@pytest.mark.parametrize("name", ["m", "m.tflite", "m.onnx", "m.xml"])
def test_a_path_may_have_any_characters(model, tmp_path, name):
    folder = tmp_path / "photos, 50 % α & #1"
    export(model, folder / name, image_size=(64, 64))
    assert verify(model, folder / name, networks.images(2, 64, 64, 3)).passed
    assert len(list(folder.iterdir())) == (2 if name == "m.xml" else 1)


@tensorflow_only
@pytest.mark.parametrize(
    "module, extra, file, format, quantization",
    [
        ("ai_edge_quantizer", "litert", "m.tflite", "litert", "dynamic_int8"),
        ("onnx", "onnx", "m.onnx", "onnx", None),
        ("tf2onnx", "onnx", "m.onnx", "onnx", None),
        ("openvino", "openvino", "m.xml", "openvino", None),
    ],
)
def test_a_missing_converter_names_its_extra_before_any_work(
    model, tmp_path, monkeypatch, module, extra, file, format, quantization
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"keras_cvt\[{extra}\]"):
        export(model, tmp_path / file, format, quantization)
    assert not list(tmp_path.iterdir())


def test_a_missing_runtime_names_its_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r"keras_cvt\[litert\]"):
        formats.open_file(folder / "0.tflite")


@pytest.mark.any_backend
@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="there it just exports"
)
def test_other_backends_say_which_command_exports(model, tmp_path):
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow keras-cvt export"):
        export(model, tmp_path / "m.tflite", "litert")


def test_verify_fails_a_file_of_another_network(folder, model):
    bias = model.get_layer("head").bias
    bias.assign(bias + np.linspace(0, 1e-3, 10))
    images = networks.images(3, 64, 64, 3)
    result = verify(model, folder / "0.tflite", images)
    assert not result.passed
    assert "FAILED" in str(result)
    assert result.to_dict()["max_difference"] == pytest.approx(1e-3, rel=0.05)


def test_probabilities_are_compared_as_the_logits_that_they_come_from(tmp_path):
    # Uncentred, the logarithms' common constant brings every cosine close to 1.
    logits = np.array([[4.0, -1.0, -3.0], [0.5, -1.0, 0.5]])
    other = logits + [[1.0, -1.0, 0.0], [0.0, 0.5, -0.5]]

    def softmax(rows):
        return np.exp(rows) / np.exp(rows).sum(-1, keepdims=True)

    def result(outputs, answers):
        return compare(
            keras.Sequential([keras.layers.Flatten()]),
            [answers(logits)],
            networks.images(2, 4, 4, 3),
            tmp_path,
            Runtime("keras", 2, lambda images: [answers(other)]),
            {"outputs": outputs, "quantization": "int8"},
            0,
        )

    expected = result("logits", lambda rows: rows)
    found = result("probabilities", softmax)
    assert expected.cosine < 0.95
    for name in ("cosine", "max_difference", "mean_difference", "top1_agreement"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))


@pytest.mark.parametrize("quantization", ["dynamic_int8", "int8"])
@pytest.mark.parametrize("noise, passed", [(0.1, True), (1.0, False)])
def test_8_bits_that_keep_only_the_best_class_fail(
    tmp_path, quantization, noise, passed
):
    logits = np.array([[4.0, -1.0, -3.0], [3.0, 0.5, -2.0]])
    other = logits + noise * np.array([[0.0, 2.0, -2.0], [0.0, 0.0, 0.1]])
    result = compare(
        keras.Sequential([keras.layers.Flatten()]),
        [logits],
        networks.images(2, 4, 4, 3),
        tmp_path,
        Runtime("keras", 2, lambda images: [other]),
        {"outputs": "logits", "quantization": quantization},
        0,
    )
    assert result.top1_agreement == 1 and result.passed is passed
    assert "overall cosine >= 0.95" in result.tolerance


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_one_borderline_image_among_many_does_not_fail_8_bits(tmp_path, outputs):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (1000, 1)) * [1.0, -1.0]
    logits[0] = [0.001, -0.001]
    other = logits + rng.normal(0, 0.005, (1000, 1)) * [1.0, -1.0]
    other[0] = [-0.001, 0.001]
    result = verdict(tmp_path, outputs, logits, other)
    assert result.cosine == pytest.approx(-1)
    assert result.passed and result.overall_cosine > 0.99


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_what_all_classes_share_is_not_agreement(tmp_path, outputs):
    best = 20 + np.array([[4.0, -1.0, 1.0], [3.0, 1.0, -1.0]])
    other = 20 + np.array([[0.1, -9.0, 0.0], [0.1, 0.0, -9.0]])
    result = verdict(tmp_path, outputs, best, other)
    assert result.top1_agreement == 1 and not result.passed


def test_one_output_is_compared_too(tmp_path):
    probabilities = np.array([[0.9], [0.5], [0.1]])
    for other, passed in ((probabilities, True), (probabilities[::-1], False)):
        result = compare(
            keras.Sequential([keras.layers.Flatten()]),
            [probabilities],
            networks.images(3, 4, 4, 3),
            tmp_path,
            Runtime("keras", 3, lambda images, other=other: [other]),
            {"outputs": "probabilities", "quantization": "int8"},
            0,
        )
        assert result.passed is passed


def verdict(tmp_path, outputs, expected, found):
    """Return how `int8` outputs compare, given as logits."""

    def given(rows):
        if outputs == "logits":
            return rows
        rows = np.exp(rows - rows.max(-1, keepdims=True))
        return rows / rows.sum(-1, keepdims=True)

    return compare(
        keras.Sequential([keras.layers.Flatten()]),
        [given(expected)],
        networks.images(len(found), 4, 4, 3),
        tmp_path,
        Runtime("keras", len(found), lambda images: [given(found)]),
        {"outputs": outputs, "quantization": "int8"},
        0,
    )


@pytest.mark.parametrize(
    "images, message",
    [
        (np.ones((0, 64, 64, 3)), "at least one image"),
        (np.ones((2, 32, 64, 3)), r"shape=\(2, 32, 64, 3\)"),
        (np.ones((2, 64, 64, 3)), "Expected pixels of 0-255"),
        (300 * np.ones((2, 64, 64, 3)), "Expected pixels of 0-255"),
    ],
)
def test_verify_refuses_images_that_do_not_fit(folder, model, images, message):
    with pytest.raises(ValueError, match=message):
        verify(model, folder / "0.tflite", images)


@pytest.mark.parametrize("file", ["m.tflite", "m.onnx", "m.xml"])
def test_verify_refuses_files_that_export_did_not_write(model, tmp_path, file):
    (tmp_path / file).write_bytes(b"nothing of ours")
    images = networks.images(1, 64, 64, 3)
    with pytest.raises(ValueError, match="deploy.export wrote"):
        verify(model, tmp_path / file, images)
    with pytest.raises(FileNotFoundError, match="missing"):
        verify(model, tmp_path / "missing.onnx", images)


def test_importing_keras_cvt_imports_no_runtime():
    program = "import sys, keras_cvt; print(sorted(sys.modules))"
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    modules = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    ).stdout
    for module in ("ai_edge_litert", "onnx", "onnxruntime", "openvino", "tf2onnx"):
        assert importlib.util.find_spec(module) is None or f"'{module}'" not in modules
