"""The convolutional token embedding."""

from typing import Any

import keras

from keras_cvt._utils import validation
from keras_cvt.layers import initializers, kernels
from keras_cvt.layers.base import CvTLayer
from keras_cvt.layers.norms import LayerNorm


@keras.saving.register_keras_serializable(package="keras_cvt")
class ConvEmbed(CvTLayer):
    """A convolution that embeds overlapping patches, followed by a LayerNorm.

    Args:
        embed_dim: Number of channels of the output.
        patch_size: Kernel size of the convolution, in pixels of the image or
            positions of the map. Defaults to `7`.
        patch_stride: Stride of the convolution. Defaults to `4`.
        patch_padding: Zeros added on every side. Defaults to `2`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: An image or a feature map (B, H, W, C).

    Returns:
        A feature map (B, H', W', embed_dim), where
        `H' = (H + 2 * patch_padding - patch_size) // patch_stride + 1`, and W' in the
        same way.

    Raises:
        ValueError: If an argument is out of range or the input is too small.

    Example:
        >>> embed = keras_cvt.layers.ConvEmbed(64, 7, 4, 2)
        >>> embed(keras.ops.ones((1, 224, 224, 3))).shape
        (1, 56, 56, 64)

    Reference:
        Paper section 3.1; `ConvEmbed` of the official `lib/models/cls_cvt.py`.
    """

    def __init__(
        self,
        embed_dim: int,
        patch_size: int = 7,
        patch_stride: int = 4,
        patch_padding: int = 2,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        validation.check_int(
            1, embed_dim=embed_dim, patch_size=patch_size, patch_stride=patch_stride
        )
        validation.check_int(0, patch_padding=patch_padding)
        self._store(ConvEmbed.__init__, locals())
        self.norm = self._sublayer(LayerNorm, "norm")

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "The number of input channels must be known. "
                f"Received: input_shape={input_shape}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        output_shape = self.compute_output_shape(input_shape)
        fan_in = self.patch_size**2 * channels
        self.proj = self._sublayer(
            keras.layers.Conv2D,
            "proj",
            self.embed_dim,
            self.patch_size,
            strides=self.patch_stride,
            padding="valid",
            data_format="channels_last",
            kernel_initializer=initializers.conv(fan_in),
            bias_initializer=initializers.conv(fan_in),
        )
        self.proj.build((None, None, None, channels))
        self.norm.build(output_shape)

    def call(self, inputs):
        self.compute_output_shape(inputs.shape)  # raises if the input is too small
        return self.norm(kernels.conv(self.proj, inputs, self.patch_padding))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        kernel = (self.patch_size, self.patch_stride, self.patch_padding)
        sizes = (validation.conv_output_size(n, *kernel) for n in (height, width))
        return (batch, *sizes, self.embed_dim)
