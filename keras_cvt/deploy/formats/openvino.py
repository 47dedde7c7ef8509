"""OpenVINO: an .xml file with a .bin file beside it, converted from a SavedModel."""

import json
import shutil
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import keras

from keras_cvt._utils.optional import require
from keras_cvt.deploy import conversions
from keras_cvt.deploy.file_format import METADATA, ExportOptions, FileFormat, Runtime

# Package and extra have the same name. The package converts and runs.
_PACKAGE = "openvino"


def write(network: keras.Model, path: Path, options: ExportOptions) -> None:
    """Write the .xml file and the .bin file beside it.

    With the quantization `"float16"` the weights are in half precision. With
    `"bfloat16"` they are in float32, and `open_file` lets OpenVINO compute in bfloat16.
    """
    openvino = require(_PACKAGE, _PACKAGE, "Exporting to OpenVINO")

    def convert(target):
        with (
            conversions.saved_model(network, path, options) as folder,
            tempfile.TemporaryDirectory() as temporary,
        ):
            if "," in str(folder):
                # OpenVINO takes it for several paths.
                folder = shutil.copytree(folder, Path(temporary, folder.name))
            converted = openvino.convert_model(str(folder))
            openvino.save_model(converted, target, compress_to_fp16=False)
            # Windows deletes no file that is mapped into memory.
            del converted

    with conversions.converted(path, options, "float32.xml", convert) as file:
        converted = openvino.Core().read_model(str(file))
        converted.set_rt_info(json.dumps(options.metadata), METADATA)
        # Otherwise a path of this machine.
        converted.set_rt_info("SavedModel", ["conversion_parameters", "input_model"])
        half = options.quantization == "float16"
        openvino.save_model(converted, path, compress_to_fp16=half)
        del converted


def open_file(path: Path, threads: int) -> Runtime:
    """Open an OpenVINO file on the processor."""
    openvino = FORMAT.import_runtime()
    low = json.loads(read_metadata(path)).get("quantization") == "bfloat16"
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # The default depends on the processor. A file cannot say it.
        "INFERENCE_PRECISION_HINT": "bf16" if low else "f32",
    }
    try:
        compiled = openvino.compile_model(str(path), "CPU", options)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        raise ValueError(
            f"OpenVINO cannot run {path.name} on this processor with "
            f"INFERENCE_PRECISION_HINT={options['INFERENCE_PRECISION_HINT']}. "
            f"Received: {lines[-1]}"
        ) from error
    batch = compiled.inputs[0].partial_shape[0]
    batch_size = batch.get_length() if batch.is_static else None
    names = sorted(output.any_name for output in compiled.outputs)

    def call(images):
        results = compiled(images)
        return [results[name].copy() for name in names]

    return Runtime(FORMAT.name, batch_size, call)


def read_metadata(path: Path) -> str:
    """Return the metadata's JSON text."""
    try:
        node = ElementTree.parse(path).find(f"./rt_info/{METADATA}")
    except ElementTree.ParseError as error:
        raise KeyError(METADATA) from error
    if node is None:
        raise KeyError(METADATA)
    return node.attrib["value"]


FORMAT = FileFormat(
    name="openvino",
    title="OpenVINO",
    write=write,
    open=open_file,
    read_metadata=read_metadata,
    suffix=".xml",
    companions=(".bin",),
    quantizations=(None, "float16", "bfloat16"),
    runtime=_PACKAGE,
    usage="""OpenVINO, `{path}` with the `.bin` file beside it, images of {values},
float32 (N, {size}, {channels}):

```python
import openvino

# "bf16" for a file in bfloat16. Without this, it depends on the processor.
precision = {{"INFERENCE_PRECISION_HINT": "f32"}}
run = openvino.compile_model("{path}", "CPU", precision)
scores = run(images)["outputs"]
```""",
)
