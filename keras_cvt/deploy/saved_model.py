"""SavedModel: TensorFlow's own format, for TensorFlow alone."""

import math
from pathlib import Path
from typing import Any

import keras

from keras_cvt.deploy import graphs
from keras_cvt.preprocessing.tensors import transform_tensor
from keras_cvt.preprocessing.transform import EvalTransform

# Constants make a call faster, by a tenth for CvT-13 and one image and not at all for
# CvT-W24, but TensorFlow copies them about: whoever serves the file holds some 17 times
# their size (benchmarks/RESULTS.md).
_LARGEST_CONSTANTS = 256 * 2**20


def write(
    model: keras.Model,
    folder: Path,
    shape: tuple[int | None, ...],
    labels: list[str] | None = None,
    transform: EvalTransform | None = None,
    top: int = 5,
    constants: bool | None = None,
) -> None:
    """Write a SavedModel with one or two signatures.

    - `serving_default`: `images`, float32 of `shape` -> the model's outputs.
    - `classify_encoded`, where a transform is given: `encoded`, JPEG or PNG files as
      strings (B,) -> `labels`, strings (B, top), and `scores`, (B, top), best first.
      Bytes that are no image fail the request with InvalidArgument.

    Args:
        model: The model.
        folder: Where to write.
        shape: Of the images, (B, H, W, C).
        labels: Names of the classes; numbers serve where there are none.
        transform: How encoded images become the model's, or None.
        top: Classes an encoded image is answered with.
        constants: Whether weights are constants of the graph rather than variables;
            None: where they take no more than 256 MiB.
    """
    import tensorflow as tf

    if constants is None:
        constants = _size(model) <= _LARGEST_CONSTANTS
    module = tf.Module()
    if not constants:
        module.held = [variable.value for variable in model.variables]
    network = module.network = graphs.traced(model, shape, constants)
    names = graphs.output_names(model)

    @tf.function(input_signature=[tf.TensorSpec(shape, "float32", name="images")])
    def serve(images):
        return dict(zip(names, network(images), strict=True))

    signatures = {"serving_default": serve}
    if transform is not None:
        classes = model.output.shape[-1]
        names_of_classes = labels or [str(i) for i in range(classes)]
        classify = _classifier(model, network, names_of_classes, transform, top)
        batch = shape[0]

        @tf.function(input_signature=[tf.TensorSpec([batch], "string", name="encoded")])
        def classify_encoded(encoded):
            return classify(encoded)

        signatures["classify_encoded"] = classify_encoded
    # Nobody trains this file; SiLU's gradient could not even be written.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), signatures=signatures, options=options)


def _size(model):
    return sum(
        weight.value.dtype.size * math.prod(weight.shape) for weight in model.weights
    )


def _classifier(
    model, network, labels: list[str], transform: EvalTransform, top: int
) -> Any:
    import tensorflow as tf

    logits = model.layers[-1].activation is keras.activations.linear
    top = min(top, len(labels))

    def image(encoded):
        pixels = tf.cond(
            tf.io.is_jpeg(encoded),
            # The default method is up to 10 levels off.
            lambda: tf.io.decode_jpeg(
                encoded, channels=3, dct_method="INTEGER_ACCURATE"
            ),
            lambda: tf.io.decode_png(encoded, channels=3),
        )
        return transform_tensor(pixels, transform)

    def classify(encoded):
        images = tf.map_fn(image, encoded, fn_output_signature="float32")
        (scores,) = network(images)
        if logits:
            scores = tf.nn.softmax(scores)
        scores, best = tf.math.top_k(scores, top)
        return {"labels": tf.gather(tf.constant(labels), best), "scores": scores}

    return classify
