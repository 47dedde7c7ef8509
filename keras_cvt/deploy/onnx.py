"""ONNX, through Keras's own export (tf2onnx)."""

import math
from pathlib import Path

import keras

from keras_cvt.deploy import graphs
from keras_cvt.deploy.metadata import KEY
from keras_cvt.deploy.onnx_norms import merge_norms
from keras_cvt.deploy.packages import require

_OPSET = 18
# Larger matrices go around tf2onnx, which holds some 50 copies of what it converts.
_LARGE = 2**16


def write(
    model: keras.Model, path: Path, shape: tuple[int | None, ...], metadata: str
) -> None:
    """Write an ONNX file that takes `images`, NHWC, and carries `metadata`.

    Args:
        model: The model.
        path: Where to write.
        shape: Of the images, (B, H, W, C).
        metadata: JSON text.
    """
    onnx = require("onnx", "onnx")
    require("tf2onnx", "onnx")
    matrices = {
        f"matrix_{i}": variable
        for i, variable in enumerate(model.variables)
        if len(variable.shape) == 2 and math.prod(variable.shape) >= _LARGE
    }
    signature = {"images": keras.InputSpec(shape=shape, dtype="float32", name="images")}
    for name, matrix in matrices.items():
        signature[name] = keras.InputSpec(
            shape=matrix.shape, dtype=matrix.dtype, name=name
        )
    _WithMatrices(model, matrices).export(
        str(path),
        format="onnx",
        input_signature=[signature],
        opset_version=_OPSET,
        verbose=False,
    )
    proto = onnx.load(path)
    _put_back(proto.graph, matrices)
    _replace_erfc(proto.graph)
    merge_norms(proto)
    _rename_outputs(proto.graph, graphs.output_names(model))
    onnx.helper.set_model_props(proto, {KEY: metadata})
    # tf2onnx only logs what it cannot express.
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


class _WithMatrices(keras.Model):
    """A network that takes some of its variables' values beside the images."""

    def __init__(self, network, matrices):
        super().__init__(name="with_matrices")
        self.network = network
        self.matrices = matrices
        self.built = True

    def call(self, inputs):
        values = [(matrix, inputs[name]) for name, matrix in self.matrices.items()]
        with keras.StatelessScope(values):
            return self.network(inputs["images"], training=False)


def _put_back(graph, matrices):
    """Make initializers of the inputs that stand for matrices."""
    import onnx

    images = [value for value in graph.input if value.name not in matrices]
    del graph.input[:]
    graph.input.extend(images)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(keras.ops.convert_to_numpy(matrix), name)
        for name, matrix in matrices.items()
    )


def _replace_erfc(graph):
    """Write the exact GELU's erfc(x), which ONNX has not, as 1 - erf(x)."""
    import numpy as np
    import onnx

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
    new_names = {
        output.name: name for output, name in zip(graph.output, names, strict=True)
    }
    for output in graph.output:
        output.name = new_names[output.name]
    for node in graph.node:
        for tensors in (node.input, node.output):
            for i, tensor in enumerate(tensors):
                tensors[i] = new_names.get(tensor, tensor)
