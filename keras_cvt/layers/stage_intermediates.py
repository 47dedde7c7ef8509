"""A stage that returns what it computes on the way."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_cvt.layers.stage import ConvTransformerStage


@keras.saving.register_keras_serializable(package="keras_cvt")
class StageIntermediates(keras.layers.Layer):
    """A stage with intermediate tensors as further outputs.

    `keras_cvt.CvTModel.intermediates` makes it. It is a layer of its own, because all
    calls of one layer in a functional model must have the same number of outputs.

    Args:
        stage: The stage. It is shared, not copied.
        intermediates: Names of `stage.intermediate_names`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: An image or a feature map (B, H, W, C).

    Returns:
        A tuple of the stage's outputs and a dict of the named tensors.

    Raises:
        ValueError: If a name is unknown or the stage is fused.

    Example:
        >>> stage = keras_cvt.layers.ConvTransformerStage(64, 1, 1, 7, 4, 2)
        >>> layer = keras_cvt.layers.StageIntermediates(stage, ["blocks/0/attention"])
        >>> _, found = layer(keras.ops.ones((1, 224, 224, 3)))
        >>> found["blocks/0/attention"].shape
        (1, 1, 3136, 784)
    """

    def __init__(
        self, stage: ConvTransformerStage, intermediates: Sequence[str], **kwargs: Any
    ):
        super().__init__(**kwargs)
        stage.check_intermediates(intermediates)
        self.stage = stage
        self.intermediates = list(intermediates)

    def build(self, input_shape):
        if not self.stage.built:
            self.stage.build(input_shape)

    def call(self, inputs):
        return self.stage(inputs, intermediates=self.intermediates)

    def compute_output_spec(self, inputs):
        return self.stage.compute_output_spec(inputs, self.intermediates)

    def get_config(self):
        return {
            **super().get_config(),
            "stage": keras.saving.serialize_keras_object(self.stage),
            "intermediates": self.intermediates,
        }

    @classmethod
    def from_config(cls, config):
        stage = keras.saving.deserialize_keras_object(config["stage"])
        return cls(**{**config, "stage": stage})
