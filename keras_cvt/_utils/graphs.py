"""The graph of a functional model, from its outputs back to its inputs.

A layer may belong to several graphs. What a model's own graph contains is found from
its outputs, not from its layers.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import keras


def nodes(
    tensors: Iterable[keras.KerasTensor], given: Iterable[keras.KerasTensor] = ()
) -> Iterator[Any]:
    """Walk a graph from its end.

    Args:
        tensors: Outputs of the graph.
        given: Tensors at which the walk ends. Defaults to none.

    Yields:
        The calls that make them, each once: Keras's nodes, with `operation`,
        `input_tensors` and `output_tensors`.
    """
    seen, left = set(), list(tensors)
    ends = {id(tensor) for tensor in given}
    while left:
        tensor = left.pop(0)
        if id(tensor) in ends:
            continue
        operation, node_index, _ = tensor._keras_history
        if (operation, node_index) in seen:
            continue
        seen.add((operation, node_index))
        node = operation._inbound_nodes[node_index]
        yield node
        left += node.input_tensors


def uncompiled(model: keras.Model) -> keras.Model:
    """Return a model of the same graph that was not compiled.

    Keras clones a compiled model with its loss and optimizer, which fails for a loss
    that is not registered with Keras. A class with its own constructor is returned as
    it is.
    """
    functional = type(keras.Model(model.input, model.output))
    kind = type(model)
    if not model.compiled or kind.__init__ is not functional.__init__:
        return model
    return kind(model.input, model.output, name=model.name)


def node_of(model: keras.Model, layer: keras.Layer) -> Any:
    """Return the call of a layer in a model's graph, the last if there are several."""
    found = (node for node in nodes(model.outputs) if node.operation is layer)
    node = next(found, None)
    if node is None:
        raise ValueError(f"Expected a layer of {model.name!r}. Received: {layer!r}")
    return node
