"""LiteRT (TensorFlow Lite): one file with builtin operators only."""

import functools
import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt._utils.optional import require, tf
from keras_cvt.deploy import conversions
from keras_cvt.deploy.file_format import METADATA, ExportOptions, FileFormat, Runtime

_METADATA_FILE = f"{METADATA}.json"


def write(network: keras.Model, path: Path, options: ExportOptions) -> None:
    """Write a LiteRT file; a network that needs TensorFlow's operators is an error.

    Quantizations:

    - `"float16"`: weights in half precision.
    - `"dynamic_int8"`: weights in 8 bits. Activations are quantized at run time, row
      by row.
    - `"int8"`: weights and activations of the linear layers and convolutions in 8
      bits. The ranges come from representative images.
    """
    quantizer = None
    if options.quantization not in (None, "float16"):
        # Before the conversion, which may take minutes.
        quantizer = require("ai_edge_quantizer", FORMAT.name, "Quantizing")
    convert = functools.partial(_convert, network, options=options)
    if options.quantization == "float16":
        convert(path)
    else:
        with conversions.converted(path, options, "float32.tflite", convert) as file:
            content = file.read_bytes()
        if quantizer is None:
            path.write_bytes(content)
        else:
            _quantize(quantizer, content, options).export_model(str(path))
    # LiteRT appends files to a model as a ZIP archive too.
    with zipfile.ZipFile(path, "a") as archive:
        # ZipInfo's own date, 1980: the same model gives the same file.
        entry = zipfile.ZipInfo(_METADATA_FILE)
        archive.writestr(entry, json.dumps(options.metadata, indent=2))


def _convert(network: keras.Model, path: Path, options: ExportOptions) -> None:
    # A SavedModel gives the file a signature with names for its tensors.
    with conversions.saved_model(network, path, options) as folder:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
        # Not SELECT_TF_OPS: the small runtime has none of them.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if options.quantization == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())


def _quantize(quantizer: Any, content: bytes, options: ExportOptions) -> Any:
    # What the converter itself quantizes runs mostly outside of XNNPACK.
    job = quantizer.quantizer.Quantizer(content)
    if options.quantization == "dynamic_int8":
        job.load_quantization_recipe(quantizer.recipe.dynamic_wi8_afp32())
        return job.quantize(None, enable_progress_report=False)
    # All else stays float. Norms, softmax, activation and residuals lose too much in 8
    # bits, and XNNPACK has no 8-bit kernels for them.
    recipe = quantizer.recipe_manager.RecipeManager()
    names = quantizer.qtyping.TFLOperationName
    for name in (names.FULLY_CONNECTED, names.CONV_2D, names.DEPTHWISE_CONV_2D):
        recipe.add_static_config(".*", name, activation_num_bits=8, weight_num_bits=8)
    job.load_quantization_recipe(recipe.get_quantization_recipe())
    # The default, a moving average, cuts off rare large values.
    update = quantizer.calibrator.qsv_utils.min_max_update
    calibrator = quantizer.calibrator.Calibrator(content, qsv_update_func=update)
    images, size = np.asarray(options.representative_images), options.shape[0] or 1
    # Images that do not fill a last batch are left out.
    starts = range(0, len(images) - size + 1, size)
    batches = [{"images": images[start : start + size]} for start in starts]
    calibrator.calibrate({"serving_default": batches}, recipe)
    return job.quantize(calibrator.get_model_qsvs(), enable_progress_report=False)


def open_file(path: Path, threads: int) -> Runtime:
    """Open a LiteRT file."""
    litert = FORMAT.import_runtime()
    interpreter = litert.Interpreter(str(path), num_threads=threads)
    (entry,) = interpreter.get_input_details()
    batch_size = int(entry["shape_signature"][0])
    if -1 not in entry["shape_signature"]:
        # The first call would do it, and print that there is a delegate.
        interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner("serving_default")

    def call(images):
        outputs = runner(images=images)
        return [outputs[name] for name in sorted(outputs)]

    return Runtime(FORMAT.name, None if batch_size < 0 else batch_size, call)


def read_metadata(path: Path) -> str:
    """Return the metadata's JSON text."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(_METADATA_FILE).decode("utf-8")
    except zipfile.BadZipFile as error:
        raise KeyError(_METADATA_FILE) from error


FORMAT = FileFormat(
    name="litert",
    title="LiteRT",
    write=write,
    open=open_file,
    read_metadata=read_metadata,
    suffix=".tflite",
    quantizations=(None, "float16", "dynamic_int8", "int8"),
    calibrated=("int8",),
    # A dynamic batch breaks the graph into pieces.
    default_batch_size=1,
    runtime="ai_edge_litert.interpreter",
    usage="""LiteRT, `{path}`, one image of {values} per call, float32
(1, {size}, {channels}):

```python
from ai_edge_litert.interpreter import Interpreter

run = Interpreter("{path}").get_signature_runner()
scores = run(images=images)["outputs"]
```""",
)
