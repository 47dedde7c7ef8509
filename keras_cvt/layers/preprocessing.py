"""From pixels to what the network's first layer expects."""

from collections.abc import Sequence

import keras
from keras import ops

# Of RGB in [0, 1]: the statistics that every published CvT was trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable(package="keras_cvt")
class ImagePreprocessing(keras.layers.Layer):
    """Normalises RGB images of 0-255, and remembers how they are to be made.

    With `normalize=False` the images pass as they are. Either way the layer
    carries `image_size`, `crop_ratio` and `labels`, so that a saved, loaded or cloned
    model still knows the evaluation transform of its weights and what its outputs
    mean.

    Args:
        image_size: (height, width) of the images that the weights were evaluated
            with, in pixels. The layer itself takes any size.
        crop_ratio: Share of the resized image that the centre crop keeps, or None
            if images were resized without a crop.
        normalize: Whether to subtract the ImageNet mean and divide by the ImageNet
            standard deviation, per channel; needs 3 channels.
        labels: Names of the model's classes, in the order of its outputs, if known.
        **kwargs: Of `keras.layers.Layer`.

    Returns:
        Images (B, H, W, C) of the input's shape, of the layer's compute dtype.

    Raises:
        ValueError: If `normalize` is True and the images have not 3 channels.
    """

    def __init__(
        self,
        image_size: tuple[int, int] = (224, 224),
        crop_ratio: float | None = 0.875,
        normalize: bool = True,
        labels: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.image_size = tuple(image_size)
        self.crop_ratio = crop_ratio
        self.normalize = normalize
        self.labels = None if labels is None else tuple(labels)

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

    def get_config(self):
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "crop_ratio": self.crop_ratio,
            "normalize": self.normalize,
            "labels": self.labels,
        }
