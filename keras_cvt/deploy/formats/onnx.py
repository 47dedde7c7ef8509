"""ONNX, through Keras's own export, which uses tf2onnx."""

import json
import math
from pathlib import Path

import keras
import numpy as np

from keras_cvt._utils.optional import LazyModule, require
from keras_cvt.deploy import tensorflow_graphs
from keras_cvt.deploy.file_format import METADATA, ExportOptions, FileFormat, Runtime
from keras_cvt.deploy.formats._onnx_norms import merge_norms

onnx = LazyModule("onnx")

_OPSET = 18
# tf2onnx holds about 50 copies of what it converts. Larger matrices bypass it.
_LARGE = 2**16


def write(network: keras.Model, path: Path, options: ExportOptions) -> None:
    """Write an ONNX file that takes `images`, NHWC."""
    for package in ("onnx", "tf2onnx"):
        require(package, FORMAT.name, "Exporting to ONNX")
    matrices = {
        f"matrix_{i}": variable
        for i, variable in enumerate(network.variables)
        if len(variable.shape) == 2 and math.prod(variable.shape) >= _LARGE
    }
    signature = {
        name: keras.InputSpec(shape=matrix.shape, dtype=matrix.dtype, name=name)
        for name, matrix in matrices.items()
    }
    signature["images"] = keras.InputSpec(
        shape=options.shape, dtype="float32", name="images"
    )
    _WithMatrices(network, matrices, signature).export(
        str(path),
        format="onnx",
        input_signature=[signature],
        opset_version=_OPSET,
        verbose=False,
    )
    proto = onnx.load(path)
    _insert_matrices(proto.graph, matrices)
    if options.shape[0]:
        # See `_WithMatrices`.
        shape = proto.graph.input[0].type.tensor_type.shape
        shape.dim[0].dim_value = options.shape[0]
    _replace_erfc(proto.graph)
    merge_norms(proto)
    _rename_outputs(proto.graph, tensorflow_graphs.output_names(network))
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(options.metadata)})
    # tf2onnx only logs what it cannot express.
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


class _WithMatrices(keras.Model):
    """A network that takes the values of some variables beside the images."""

    def __init__(self, network, matrices, signature):
        super().__init__(name="with_matrices")
        self.network = network
        self.matrices = matrices
        self.signature = signature
        self.built = True

    def call(self, inputs):
        # Keras 3.13 leaves the first size of every input open.
        for name, spec in self.signature.items():
            inputs[name].set_shape(spec.shape)
        values = [(matrix, inputs[name]) for name, matrix in self.matrices.items()]
        with keras.StatelessScope(values):
            return self.network(inputs["images"], training=False)


def _insert_matrices(graph, matrices):
    """Turn the inputs that stand for matrices into initializers."""
    images = [value for value in graph.input if value.name not in matrices]
    del graph.input[:]
    graph.input.extend(images)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(keras.ops.convert_to_numpy(matrix), name)
        for name, matrix in matrices.items()
    )


def _replace_erfc(graph):
    """Write erfc(x) of the exact GELU, which ONNX does not have, as 1 - erf(x)."""
    one = "erfc/one"
    nodes = []
    for node in graph.node:
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        erf = f"{node.output[0]}/erf"
        nodes += [
            onnx.helper.make_node("Erf", [node.input[0]], [erf]),
            onnx.helper.make_node("Sub", [one, erf], [node.output[0]]),
        ]
    if len(nodes) > len(graph.node):
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), one))
    del graph.node[:]
    graph.node.extend(nodes)


def _rename_outputs(graph, names):
    # tf2onnx calls them `identity`, in the flattened order of the model's outputs.
    new_names = {}
    for output, name in zip(graph.output, names, strict=True):
        new_names[output.name] = output.name = name
    for node in graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [new_names.get(tensor, tensor) for tensor in tensors]


def open_file(path: Path, threads: int) -> Runtime:
    """Open an ONNX file on the processor."""
    onnxruntime = FORMAT.import_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    names = sorted(output.name for output in session.get_outputs())
    batch_size = session.get_inputs()[0].shape[0]

    if not isinstance(batch_size, int):
        batch_size = None  # The name of a dynamic batch.

    def call(images):
        return session.run(names, {"images": images})

    return Runtime(FORMAT.name, batch_size, call)


def read_metadata(path: Path) -> str:
    """Return the metadata's JSON text."""
    require("onnx", FORMAT.name, "Reading ONNX")
    message = require("google.protobuf.message", FORMAT.name, "Reading ONNX")
    try:
        model = onnx.load(path, load_external_data=False)
    except message.DecodeError as error:
        raise KeyError(METADATA) from error
    return {entry.key: entry.value for entry in model.metadata_props}[METADATA]


FORMAT = FileFormat(
    name="onnx",
    title="ONNX",
    write=write,
    open=open_file,
    read_metadata=read_metadata,
    suffix=".onnx",
    runtime="onnxruntime",
    usage="""ONNX Runtime, `{path}`, images of {values}, float32
(N, {size}, {channels}):

```python
import onnxruntime

session = onnxruntime.InferenceSession("{path}")
(scores,) = session.run(["outputs"], {{"images": images}})
```""",
)
