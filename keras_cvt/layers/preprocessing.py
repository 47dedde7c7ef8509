"""The first layer of a model, which normalises images and stores facts about it."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_cvt.layers.base import CvTLayer

# Mean and standard deviation of RGB values in [0, 1], with which every published CvT
# was trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable(package="keras_cvt")
class ImagePreprocessing(CvTLayer):
    """Normalises RGB images of 0-255 and stores facts about the model.

    With `normalize=False` the images pass unchanged. Either way the layer stores
    what a graph cannot say: the evaluation transform, the class names and where the
    weights come from. So a saved, loaded or cloned model still knows them. Read and
    set them through the properties of `keras_cvt.CvTModel`.

    Args:
        image_size: (height, width) in pixels of the images that the weights were
            evaluated with. The layer itself takes any size. Defaults to `(224, 224)`.
        crop_ratio: Share of the resized image that the centre crop keeps, or None if
            images were resized without a crop. Defaults to `0.875`.
        normalize: Whether to subtract the ImageNet mean and divide by the ImageNet
            standard deviation of each channel. Needs 3 channels. Defaults to `True`.
        class_names: Names of the model's classes, in the order of its outputs.
            Defaults to `None`.
        source_weights: Where the model's weights come from. Defaults to `None`.
        output_kind: What the outputs are, if the graph alone does not tell. Defaults
            to `None`.
        **kwargs: Arguments of `keras.layers.Layer`. Also `labels`, the name of
            `class_names` in files of version 0.1.0.

    Call arguments:
        inputs: Images (B, H, W, C), channels last. RGB of 0-255 if `normalize` is
            True.

    Returns:
        Images (B, H, W, C) in the layer's compute dtype.

    Raises:
        ValueError: If `normalize` is True and the images do not have 3 channels.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (224, 224),
        crop_ratio: float | None = 0.875,
        normalize: bool = True,
        class_names: Sequence[str] | None = None,
        source_weights: str | None = None,
        output_kind: str | None = None,
        **kwargs: Any,
    ):
        labels = kwargs.pop("labels", None)
        super().__init__(**kwargs)
        class_names = labels if class_names is None else class_names
        class_names = None if class_names is None else tuple(class_names)
        height, width = image_size
        image_size = (height, width)
        self._store(ImagePreprocessing.__init__, locals())

    def build(self, input_shape):
        if self.normalize and input_shape[-1] != len(IMAGENET_MEAN):
            raise ValueError(
                "`include_preprocessing=True` normalises RGB images and needs 3 "
                "channels; pass `include_preprocessing=False` for other images. "
                f"Received: input_shape={tuple(input_shape)}"
            )

    def call(self, inputs):
        # Keras casts floats to the layer's dtype, but leaves integers as they are.
        inputs = ops.cast(inputs, self.compute_dtype)
        if not self.normalize:
            return inputs
        scale = [1 / (255 * std) for std in IMAGENET_STD]
        offset = [-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
        return inputs * ops.array(scale, inputs.dtype) + ops.array(offset, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape
