"""One module for each exported format, and one name for each variant."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import networks
import pytest

import keras_cvt
from keras_cvt.deploy import FORMATS, export, formats

PACKAGE = Path(keras_cvt.__file__).parent
MODULES = {
    "tf_saved_model": "saved_model",
    "litert": "litert",
    "onnx": "onnx",
    "openvino": "openvino",
    "web": "web",
}
FILES = {
    "tf_saved_model": "saved_model",
    "litert": "model.tflite",
    "litert_float16": "model_float16.tflite",
    "litert_dynamic_int8": "model_dynamic_int8.tflite",
    "litert_int8": "model_int8.tflite",
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "openvino_float16": "model_float16.xml",
    "openvino_bfloat16": "model_bfloat16.xml",
    "web": "web_page",
    "web_dynamic_int8": "web_page_dynamic_int8",
}

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)


def test_every_variant_has_a_name_and_a_file_name():
    found = {name: v.file_name for name, v in formats.variants().items()}
    assert found == FILES and list(found) == list(FILES)
    assert list(FORMATS) == ["keras", "fused", *FILES]
    assert list(formats.FORMATS) == list(MODULES)


@pytest.mark.parametrize("name", FILES)
def test_a_variant_is_found_by_one_name_or_by_two(name):
    variant = formats.find_variant(name)
    assert variant == formats.find_variant(variant.format.name, variant.quantization)
    assert variant == formats.find_variant(name, variant.quantization)
    assert variant.needs_images == (name == "litert_int8")
    assert variant.title.endswith(variant.quantization or variant.format.title)


def test_the_name_of_version_0_1_0_is_an_alias():
    assert formats.find_variant("saved_model").name == "tf_saved_model"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("tflite",), "must be one of 'tf_saved_model', 'litert', .*format='tflite'"),
        (("onnx", "int8"), "format='onnx', quantization='int8'"),
        (("litert_int8", "float16"), "format='litert_int8', quantization='float16'"),
    ],
)
def test_a_variant_that_does_not_exist_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        formats.find_variant(*names)


@pytest.mark.parametrize("name", FILES)
def test_without_a_format_the_suffix_decides(name):
    found = formats.for_path(FILES[name])
    record = formats.find_variant(name).format
    # A folder without a suffix is a SavedModel unless a format says otherwise.
    expected = formats.FORMATS["tf_saved_model"] if record.is_page else record
    assert found == expected


@pytest.mark.parametrize("path", ["model.tflit", "cvt-1.0"])
def test_an_unknown_suffix_needs_a_format(path):
    with pytest.raises(ValueError, match=r"must end in .*\.tflite, \.onnx or \.xml"):
        formats.for_path(path)


@tensorflow_only
def test_export_takes_the_format_from_the_path(tmp_path):
    model = networks.build(networks.CONFIGS["linear"], input_shape=(32, 32, 3))
    path = tmp_path / "model.tflite"
    assert export(model, path)["format"] == "litert"
    assert path.is_file()
    metadata = export(model, path, "litert_float16")
    assert (metadata["format"], metadata["quantization"]) == ("litert", "float16")


@tensorflow_only
@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("m.keras", None, r"\.onnx or \.xml, or name a folder without a suffix"),
        ("m.weights.h5", None, r"\.onnx or \.xml, or name a folder without a suffix"),
        ("m.keras", "tf_saved_model", "Expected a folder, without the suffix"),
        ("m.tflite", "saved_model", "Expected a folder, without the suffix"),
        ("m.TFLITE", "tf_saved_model", "Expected a folder, without the suffix"),
        ("m.onnx", "litert", r"Expected a path that ends in \.tflite"),
    ],
)
def test_a_suffix_of_another_kind_of_file_is_refused(tmp_path, name, format, message):
    model = networks.build(networks.CONFIGS["linear"], input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match=f"{message}.*Received: path=.*{name}"):
        export(model, tmp_path / name, format)
    assert not list(tmp_path.iterdir())


@tensorflow_only
def test_the_end_of_a_version_is_no_suffix_of_a_file(tmp_path):
    model = networks.build(networks.CONFIGS["linear"], input_shape=(32, 32, 3))
    export(model, tmp_path / "cvt-1.0", "tf_saved_model")
    assert (tmp_path / "cvt-1.0").is_dir()


def strings(path):
    """Return the string constants of a module, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documentation
    ]


@pytest.mark.parametrize("name", MODULES)
def test_a_formats_names_are_in_its_own_module(name):
    own = PACKAGE / "deploy" / "formats" / f"{MODULES[name]}.py"
    assert name in strings(own)
    found = formats.FORMATS[name]
    names = [v.name for v in formats.variants().values() if v.format == found]
    names = [*names, *found.aliases, *filter(None, (found.suffix, found.marker))]
    # `.xml`, but not the end of `model.xml2`.
    pattern = "|".join(rf"(?<!\w){re.escape(n)}(?!\w)" for n in names)
    places = [
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in PACKAGE.rglob("*.py")
        if path != own
        for text in strings(path)
        # "web page" is its name for people.
        if re.search(pattern, text.replace(found.title, ""))
    ]
    assert len(places) <= 2, places


TOY = '''
"""A toy: the Keras model itself, in a folder with its metadata."""

import json

import keras

from keras_cvt.deploy.file_format import FileFormat, Runtime


def write(network, path, options):
    path.mkdir()
    network.save(path / "network.keras")
    (path / "metadata.json").write_text(json.dumps(options.metadata))


def open_file(path, threads):
    network = keras.models.load_model(path / "network.keras", compile=False)
    return Runtime("toy", None, lambda images: [network.predict_on_batch(images)])


def read_metadata(path):
    return (path / "metadata.json").read_text()


FORMAT = FileFormat(
    name="toy",
    title="Toy",
    write=write,
    open=open_file,
    read_metadata=read_metadata,
    suffix=".toy",
    marker="network.keras",
    quantizations=(None, "float16"),
)
'''

PROGRAM = """
import json
import sys

import keras
import keras_cvt
from keras_cvt import cli, deploy

model_file, folder = sys.argv[1:]
model = keras.models.load_model(model_file)
images = deploy.made_up_images(64, 64, 3)
path = folder + "/first.toy"
exported = deploy.export(model, path)
files = deploy.benchmark(model, images, folder, ["toy", "toy_float16"])
answer = {
    "read": deploy.read_metadata(path) == exported,
    "metadata": exported,
    "verified": deploy.verify(model, path, images).to_dict(),
    "benchmark": files.to_dict(),
    "verify": cli.main(["verify", model_file, path]),
    "export": cli.main(["export", model_file, folder + "/second.toy"]),
}
print(json.dumps(answer))
"""


@tensorflow_only
def test_a_new_format_is_one_new_file(tmp_path):
    shutil.copytree(
        PACKAGE, tmp_path / "keras_cvt", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "keras_cvt" / "deploy" / "formats" / "toy.py").write_text(TOY)
    networks.save_classifier(tmp_path / "model.keras")
    (tmp_path / "files").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "model.keras", tmp_path / "files"],
        capture_output=True,
        text=True,
        timeout=600,
        # Otherwise `-c` imports the package of the current folder.
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    answer = json.loads(result.stdout.splitlines()[-1])
    assert answer["metadata"]["format"] == "toy" and answer["read"]
    assert answer["verified"]["passed"] and answer["verified"]["format"] == "toy"
    assert answer["verified"]["size_bytes"] > 0
    rows = {row["name"]: row for row in answer["benchmark"]["measurements"]}
    assert list(rows) == ["keras", "toy", "toy_float16"]
    assert all(row["passed"] for row in rows.values())
    assert rows["toy_float16"]["quantization"] == "float16"
    assert answer["verify"] == answer["export"] == 0
