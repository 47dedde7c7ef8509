"""The part of a network in front of its head."""

import keras

from keras_cvt.description import describe, find_head
from keras_cvt.models import CvTModel


def feature_extractor(model: keras.Model) -> CvTModel:
    """Return the part of a CvT that computes the features of images.

    The features are what goes into the head: the normalised class token, or without a
    class token the mean of the normalised map. A model without a head, and one whose
    `output_kind` is `"features"`, gives its own outputs; maps are averaged over their
    positions.

    Args:
        model: A CvT with or without a head. All its layers are shared.

    Returns:
        A model from the same images to features (B, C).

    Raises:
        ValueError: If the model is not a CvT, or has neither a head nor one output
            of shape (B, C) or (B, H, W, C).

    Example:
        ```python
        extractor = feature_extractor(keras_cvt.CvT13())
        images = keras_cvt.preprocess_input(["photo.jpg"], extractor)
        features = extractor.predict(images)  # (1, 384)
        ```
    """
    outputs = describe(model).outputs
    features = None if outputs == "features" else find_head(model)[2]
    if features is None:
        features = model.outputs[0]
    rank = len(features.shape)
    if len(model.outputs) != 1 or rank not in (2, 4):
        raise ValueError(
            "Expected a model with a head, or with one output of shape (B, C) or "
            "(B, H, W, C). Received: outputs of shapes "
            f"{[tuple(output.shape) for output in model.outputs]}"
        )
    if rank == 4:
        features = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", dtype=features.dtype, name="pool"
        )(features)
    inputs = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    return CvTModel(inputs, features, name=model.name)
