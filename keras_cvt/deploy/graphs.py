"""TensorFlow functions of a model: what the converters start from."""

from typing import Any

import keras


def output_names(model: keras.Model) -> list[str]:
    """Return a name for each output: a dict's keys, `outputs`, or numbered."""
    if isinstance(model.output, dict):
        return list(keras.tree.flatten({name: name for name in model.output}))
    count = len(model.outputs)
    return ["outputs"] if count == 1 else [f"output_{i}" for i in range(count)]


def traced(model: keras.Model, shape: tuple[int | None, ...], constants: bool) -> Any:
    """Return the model's concrete function.

    With a static shape nothing of the graph computes shapes.

    Args:
        model: The model.
        shape: Of the images, (B, H, W, C); None where any.
        constants: Whether constants take the place of variables, which kernels then
            pack once.

    Returns:
        A function from `images` to the list of the model's outputs.
    """
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    signature = tf.TensorSpec(shape, "float32", name="images")

    @tf.function(input_signature=[signature], autograph=False)
    def call(images):
        outputs = keras.tree.flatten(model(images, training=False))
        names = output_names(model)
        return [
            tf.identity(output, name)
            for output, name in zip(outputs, names, strict=True)
        ]

    function = call.get_concrete_function()
    if constants:
        return convert_to_constants.convert_variables_to_constants_v2(function)
    return function
