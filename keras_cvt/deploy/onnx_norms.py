"""LayerNorm as ONNX's own operator, where tf2onnx wrote its arithmetic."""

from typing import Any

import numpy as np


def merge_norms(model: Any) -> int:
    """Replace the arithmetic of every `FusedNorm` by one LayerNormalization.

    The runtimes have a kernel for that operator; of the arithmetic they recognise
    only what PyTorch writes.

    Args:
        model: An ONNX `ModelProto` of opset 17 or later; changed in place.

    Returns:
        How many were replaced.
    """
    import onnx

    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer
    }
    shapes = {
        value.name: value.type.tensor_type.shape.dim
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    outputs = {output.name for output in graph.output}

    def produced(name, op_type):
        node = producers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def with_vector(node):
        """Return a node's other input and its constant vector, either may be None."""
        for name, other in (node.input, node.input[::-1]):
            if name in constants and constants[name].ndim == 1:
                return other, name
        return None, None

    def variance_of(reciprocal):
        """Return the nodes between the centred tokens and 1 / deviation, or None."""
        chain, node = [], reciprocal
        for op_type in ("Sqrt", "Add", "ReduceMean", "Mul"):
            node = produced(node.input[0], op_type)
            if node is None:
                return None
            chain.append(node)
        return chain[1:]

    replacements = {}
    for product in graph.node:
        if product.op_type != "Mul":
            continue
        centred = produced(product.input[0], "Sub")
        reciprocal = produced(product.input[1], "Reciprocal")
        gamma = beta = None
        if reciprocal is None and produced(product.input[1], "Mul"):
            # TensorFlow scales the deviation, not the tokens, by a constant.
            inner, gamma = with_vector(producers[product.input[1]])
            reciprocal = produced(inner, "Reciprocal")
        if centred is None or reciprocal is None:
            continue
        chain, mean = variance_of(reciprocal), produced(centred.input[1], "ReduceMean")
        if chain is None or mean is None:
            continue
        shifted, variance, square = chain
        x = centred.input[0]
        if list(square.input) != [centred.output[0]] * 2 or mean.input[0] != x:
            continue
        dims = shapes.get(centred.output[0], ())
        means = (mean, variance)
        if not all(_over_last_axis(node, constants, len(dims)) for node in means):
            continue
        last, (follower, *others) = product, readers[product.output[0]]
        if gamma is None:
            gamma = f"{product.name}/scale"
            ones = np.ones(dims[-1].dim_value, "float32")
            graph.initializer.append(onnx.numpy_helper.from_array(ones, gamma))
        elif follower.op_type == "Add" and not others:
            _, beta = with_vector(follower)
            last = product if beta is None else follower
        replacements[last.output[0]] = onnx.helper.make_node(
            "LayerNormalization",
            [name for name in (x, gamma, beta) if name],
            [last.output[0]],
            name=product.name,
            axis=-1,
            epsilon=float(constants[shifted.input[1]]),
        )
    nodes = [replacements.get(node.output[0], node) for node in graph.node]
    nodes = _alive(nodes, outputs)
    del graph.node[:]
    graph.node.extend(nodes)
    return len(replacements)


def _alive(nodes, outputs):
    """Drop nodes that nothing reads; they come in topological order."""
    read, alive = set(outputs), []
    for node in reversed(nodes):
        if read & set(node.output):
            read |= set(node.input)
            alive.append(node)
    return alive[::-1]


def _over_last_axis(reduction, constants, rank):
    axes = constants.get(reduction.input[1]) if len(reduction.input) > 1 else None
    # A rank that is not known is no axis to compare with.
    return rank and axes is not None and [int(a) % rank for a in axes] == [rank - 1]
