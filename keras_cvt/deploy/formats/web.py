"""A web page that classifies photos in the visitor's browser, with an ONNX file."""

import base64
import dataclasses
import hashlib
import html
import json
import shutil
import string
from importlib import resources
from pathlib import Path
from typing import Any

import keras

from keras_cvt._utils.optional import require
from keras_cvt.deploy.file_format import METADATA, ExportOptions, FileFormat, Runtime
from keras_cvt.deploy.formats import onnx
from keras_cvt.preprocessing.transform import vertical_first

_MODEL = "model.onnx"
_METADATA_FILE = f"{METADATA}.json"
_ASSETS = resources.files("keras_cvt") / "assets" / "web"
# What the browser loads as it is. `index.html` is a template.
_STATIC = ("app.js", "worker.js", "decode.js", "preprocess.js", "style.css")
# Of the npm package onnxruntime-web: where a page finds its two files unless they are
# beside it, and their hashes, which the browser compares.
_VERSION = "1.30.0"
_CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{_VERSION}/dist/"
_SCRIPT, _BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_INTEGRITY = {
    _SCRIPT: "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    _BINARY: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}


def write(network: keras.Model, path: Path, options: ExportOptions) -> None:
    """Write the folder of a page.

    With the quantization `"dynamic_int8"` the weights of linear layers are in 8 bits,
    and their inputs are quantized when the network runs.
    """
    description = options.description
    if not description.is_classifier:
        raise ValueError(
            "Expected a classifier for a web page. "
            f"Received: outputs={description.outputs!r}"
        )
    description.check_photos()
    if options.shape[0] not in (None, 1):
        raise ValueError(
            "Expected one image per call, or any number, for a web page. "
            f"Received: batch_size={options.shape[0]}"
        )
    path.mkdir()
    runtime = _write_runtime(path, options.runtime)
    onnx.write(network, path / _MODEL, options)
    if options.quantization:
        _quantize(path / _MODEL)
    size = (path / _MODEL).stat().st_size
    page = {
        "model": {"name": _MODEL, "bytes": size},
        "runtime": runtime,
        "activation": description.score_activation,
        "top": options.top,
        # Pixels are those of the Pillow that is installed now.
        "tall_first": bool(vertical_first(4, 1, 1, 1)),
    }
    _write_json(path / "page.json", page)
    _write_json(path / _METADATA_FILE, options.metadata)
    for name in _STATIC:
        (path / name).write_bytes((_ASSETS / name).read_bytes())
    (path / "index.html").write_text(_index(options, page), encoding="utf-8")


def _write_runtime(path, source):
    """Copy the runtime's files if they are given, and return where they are."""
    integrity, folder = _INTEGRITY, _CDN
    if source is not None:
        missing = [name for name in _INTEGRITY if not (source / name).is_file()]
        if missing:
            raise ValueError(
                f"Expected a folder with {' and '.join(_INTEGRITY)}, such as `dist` of "
                "the npm package onnxruntime-web. "
                f"Received: runtime={str(source)!r} without {' and '.join(missing)}"
            )
        folder = "runtime/"
        (path / folder).mkdir()
        for name in _INTEGRITY:
            shutil.copyfile(source / name, path / folder / name)
        integrity = {name: _hash(path / folder / name) for name in _INTEGRITY}
    named = {name: {"name": name, "integrity": i} for name, i in integrity.items()}
    return {"folder": folder, "script": named[_SCRIPT], "binary": named[_BINARY]}


def _hash(path: Path) -> str:
    """Return a file's hash as the browser's `integrity` takes it."""
    digest = hashlib.sha384(path.read_bytes()).digest()
    return f"sha384-{base64.b64encode(digest).decode()}"


def _quantize(path):
    quantization = require("onnxruntime.quantization", FORMAT.name, "Quantizing")
    quantization.quantize_dynamic(
        path,
        path,
        # The few weights of convolutions stay in float32.
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        # With signed weights, sums overflow on processors with AVX2 and no VNNI.
        weight_type=quantization.QuantType.QUInt8,
    )


def _index(options: ExportOptions, page: dict[str, Any]) -> str:
    """Return the page's HTML."""
    description, runtime = options.description, page["runtime"]
    height, width = description.eval_transform.image_size
    about = (
        f"{description.name} answers with {description.classes} classes. It takes "
        f"{height} × {width} pixels, computes in {options.quantization or 'float32'}, "
        f"and loads {page['model']['bytes'] / 1e6:.1f} MB beside a runtime of 14 MB."
    )
    beside = runtime["folder"] != _CDN
    terms = "Made with keras_cvt. The network runs with ONNX Runtime Web (MIT licence)"
    terms += "." if beside else f" {_VERSION}, which comes from cdn.jsdelivr.net."
    if description.source_weights:
        terms = f"Weights: {description.source_weights}. {terms}"
    template = string.Template((_ASSETS / "index.html").read_text(encoding="utf-8"))
    return template.substitute(
        name=html.escape(description.name),
        about=html.escape(about),
        terms=html.escape(terms),
        connect="" if beside else f" {_CDN}",
    )


def _write_json(path, values):
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def open_file(path: Path, threads: int) -> Runtime:
    """Open the network of a page on the processor, without a browser."""
    runtime = onnx.open_file(path / _MODEL, threads)
    return dataclasses.replace(runtime, format=FORMAT.name)


def read_metadata(path: Path) -> str:
    """Return the metadata's JSON text."""
    return (path / _METADATA_FILE).read_text(encoding="utf-8")


FORMAT = FileFormat(
    name="web",
    title="web page",
    write=write,
    open=open_file,
    read_metadata=read_metadata,
    marker=_METADATA_FILE,
    stem="web_page",
    quantizations=(None, "dynamic_int8"),
    # Shapes that are known make a session faster.
    default_batch_size=1,
    is_page=True,
    runtime="onnxruntime",
    usage="""A web page, the folder `{path}`, which classifies photos in the browser.
Nothing is uploaded. Any web server will do:

```sh
python -m http.server --directory {path}
```""",
)
