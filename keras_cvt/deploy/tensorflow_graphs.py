"""TensorFlow graphs of a model, which the converters start from."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_cvt._utils.optional import tf

# Constants make a call faster: by a tenth for CvT-13 and one image, and not at all for
# CvT-W24. But TensorFlow copies them: a process that serves the file holds about 17
# times their size (benchmarks/RESULTS.md).
_LARGEST_CONSTANTS = 256 * 2**20


def output_names(model: keras.Model) -> list[str]:
    """Return a name for each output: a dict's keys, `outputs`, or numbered ones."""
    if isinstance(model.output, dict):
        return list(keras.tree.flatten({name: name for name in model.output}))
    count = len(model.outputs)
    return ["outputs"] if count == 1 else [f"output_{i}" for i in range(count)]


def trace(model: keras.Model, shape: tuple[int | None, ...], constants: bool) -> Any:
    """Return the model's concrete function.

    If the shape is static, no operation of the graph computes shapes.

    Args:
        model: The model.
        shape: (B, H, W, C) of the images; None for any size.
        constants: Whether the weights are constants of the graph, which kernels pack
            once. Otherwise they are variables.

    Returns:
        A function from `images` to the list of the model's outputs.
    """
    from tensorflow.python.framework import convert_to_constants

    signature = tf.TensorSpec(shape, "float32", name="images")

    @tf.function(input_signature=[signature], autograph=False)
    def call(images):
        outputs = keras.tree.flatten(model(images, training=False))
        named = zip(outputs, output_names(model), strict=True)
        return [tf.identity(output, name) for output, name in named]

    function = call.get_concrete_function()
    if constants:
        return convert_to_constants.convert_variables_to_constants_v2(function)
    return function


def save(
    model: keras.Model,
    folder: str | Path,
    shape: tuple[int | None, ...],
    *,
    constants: bool | None = None,
    classify: Callable[[Any, Any], dict[str, Any]] | None = None,
) -> None:
    """Write a SavedModel with one or two signatures.

    - `serving_default` takes `images`, float32 of `shape`, and returns the outputs.
    - `classify_encoded`, if there is `classify`, takes `encoded`, strings (B,), and
      returns what `classify` makes of them.

    Args:
        model: The model.
        folder: Where to write.
        shape: (B, H, W, C) of the images; None for any size.
        constants: Whether the weights are constants of the graph. Defaults to `None`,
            which means that they are if they take at most 256 MiB.
        classify: A function from encoded images and the network's concrete function
            to a dict of tensors. Defaults to `None`.
    """
    if constants is None:
        sizes = [w.value.dtype.size * math.prod(w.shape) for w in model.weights]
        constants = sum(sizes) <= _LARGEST_CONSTANTS
    module = tf.Module()
    if not constants:
        module.held = [variable.value for variable in model.variables]
    network = module.network = trace(model, shape, constants)
    names = output_names(model)

    @tf.function(input_signature=[tf.TensorSpec(shape, "float32", name="images")])
    def serve(images):
        return dict(zip(names, network(images), strict=True))

    signatures = {"serving_default": serve}
    if classify is not None:
        encoded_spec = tf.TensorSpec(shape[:1], "string", name="encoded")

        @tf.function(input_signature=[encoded_spec])
        def classify_encoded(encoded):
            return classify(encoded, network)

        signatures["classify_encoded"] = classify_encoded
    # The file is not trained further, and SiLU's gradient could not be written.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), signatures=signatures, options=options)
