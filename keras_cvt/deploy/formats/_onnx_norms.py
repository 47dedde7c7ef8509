"""Write LayerNorm as ONNX's operator instead of tf2onnx's arithmetic."""

from collections import defaultdict
from typing import Any

import numpy as np

from keras_cvt._utils.optional import LazyModule

onnx = LazyModule("onnx")


class _Graph:
    """Look-ups in an ONNX graph."""

    def __init__(self, model):
        graph = model.graph
        self.producers = {name: node for node in graph.node for name in node.output}
        self.readers = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.readers[name].append(node)
        to_array = onnx.numpy_helper.to_array
        self.constants = {t.name: to_array(t) for t in graph.initializer}
        self.shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in onnx.shape_inference.infer_shapes(model).graph.value_info
        }

    def chain(self, name, *op_types):
        """Return the nodes that end in a tensor, last first; None if they differ.

        Each node after the first computes the first input of the node before it.
        """
        nodes = []
        for op_type in op_types:
            node = self.producers.get(name)
            if node is None or node.op_type != op_type:
                return None
            nodes.append(node)
            name = node.input[0]
        return nodes

    def with_vector(self, node):
        """Return a node's other input and its constant vector, or (None, None)."""
        for name, other in (node.input, node.input[::-1]):
            if name in self.constants and self.constants[name].ndim == 1:
                return other, name
        return None, None

    def is_over_last_axis(self, reduction, rank):
        axes = [self.constants.get(name) for name in reduction.input[1:]]
        return [list(a % rank) for a in axes if a is not None] == [[rank - 1]]


def merge_norms(model: Any) -> int:
    """Replace the arithmetic of every `FusedNorm` by one LayerNormalization.

    The runtimes have a kernel for this operator. They do not recognise the arithmetic
    as tf2onnx writes it, only as PyTorch does.

    Args:
        model: An ONNX `ModelProto` of opset 17 or later. It is changed in place.

    Returns:
        The number of norms that were replaced.
    """
    graph = _Graph(model)
    operators = {}
    for product in model.graph.node:
        norm = _match(graph, product)
        if norm is None:
            continue
        x, width, epsilon, gamma = norm
        inputs, output = [x, gamma], product.output[0]
        if gamma is None:
            inputs[1] = f"{product.name}/scale"
            ones = onnx.numpy_helper.from_array(np.ones(width, "float32"), inputs[1])
            model.graph.initializer.append(ones)
        elif (added := _offset(graph, output)) is not None:
            beta, output = added
            inputs.append(beta)
        attributes = {"name": product.name, "axis": -1, "epsilon": epsilon}
        operators[output] = onnx.helper.make_node(
            "LayerNormalization", inputs, [output], **attributes
        )
    nodes = [operators.get(node.output[0], node) for node in model.graph.node]
    nodes = _used(nodes, {output.name for output in model.graph.output})
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return len(operators)


def _match(graph, product):
    """Return (x, width, epsilon, gamma) of the norm that a product ends, or None.

    The product is (x - mean) * (1 / deviation), or gamma is a factor of 1 / deviation;
    otherwise gamma is None.
    """
    if product.op_type != "Mul":
        return None
    scale, gamma = product.input[1], None
    if graph.chain(scale, "Mul"):
        # TensorFlow multiplies the deviation, not the tokens, by gamma.
        scale, gamma = graph.with_vector(graph.producers[scale])
    deviation = graph.chain(scale, "Reciprocal", "Sqrt", "Add", "ReduceMean", "Mul")
    centred = graph.chain(product.input[0], "Sub")
    mean = centred and graph.chain(centred[0].input[1], "ReduceMean")
    if not deviation or not mean:
        return None
    _, _, shifted, variance, square = deviation
    x, tokens = centred[0].input[0], centred[0].output[0]
    if list(square.input) != [tokens, tokens] or mean[0].input[0] != x:
        return None
    shape, epsilon = graph.shapes.get(tokens), graph.constants.get(shifted.input[1])
    # Without a known rank there is no last axis to compare with.
    known = shape and epsilon is not None
    reductions = (mean[0], variance)
    if not known or not all(graph.is_over_last_axis(r, len(shape)) for r in reductions):
        return None
    return x, shape[-1], float(epsilon), gamma


def _offset(graph, product):
    """Return the beta that is added to a product next and the sum, or None."""
    readers = graph.readers[product]
    if len(readers) != 1 or readers[0].op_type != "Add":
        return None
    _, beta = graph.with_vector(readers[0])
    return beta and (beta, readers[0].output[0])


def _used(nodes, outputs):
    """Return the nodes that the outputs need. They are in topological order."""
    read, used = set(outputs), []
    for node in reversed(nodes):
        if read & set(node.output):
            read |= set(node.input)
            used.append(node)
    return used[::-1]
