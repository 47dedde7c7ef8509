"""The convolutional token embedding."""

import keras

from keras_cvt import validation
from keras_cvt.layers import initializers
from keras_cvt.layers.norms import LayerNorm
from keras_cvt.layers.padding import pad_map


@keras.saving.register_keras_serializable(package="keras_cvt")
class ConvEmbed(keras.layers.Layer):
    """Embeds overlapping patches of an image or a map, and normalises them.

    Args:
        embed_dim: Channels that come out.
        patch_size: Kernel size, in pixels or positions.
        patch_stride: Stride.
        patch_padding: Zeros added on every side.
        **kwargs: Of `keras.layers.Layer`.

    Returns:
        A map (B, H', W', embed_dim) for a map (B, H, W, C), with
        `H' = (H + 2 * patch_padding - patch_size) // patch_stride + 1`.

    Raises:
        ValueError: If an argument is out of range or the input too small.

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
        **kwargs,
    ):
        super().__init__(**kwargs)
        validation.check_int(
            1, embed_dim=embed_dim, patch_size=patch_size, patch_stride=patch_stride
        )
        validation.check_int(0, patch_padding=patch_padding)
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.patch_padding = patch_padding
        self.norm = LayerNorm(dtype=self.dtype_policy, name="norm")

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "The number of input channels must be known. "
                f"Received: input_shape={input_shape}"
            )
        output_shape = self.compute_output_shape(input_shape)
        fan_in = self.patch_size**2 * channels
        self.proj = keras.layers.Conv2D(
            self.embed_dim,
            self.patch_size,
            strides=self.patch_stride,
            padding="valid",
            data_format="channels_last",
            kernel_initializer=initializers.conv(fan_in),
            bias_initializer=initializers.conv(fan_in),
            dtype=self.dtype_policy,
            name="proj",
        )
        self.proj.build((None, None, None, channels))
        self.norm.build(output_shape)

    def call(self, inputs):
        self.compute_output_shape(inputs.shape)  # says so when the input is too small
        x = pad_map(inputs, self.patch_padding)  # (B, H, W, C)
        return self.norm(self.proj(x))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        height, width = (
            validation.conv_output_size(
                size, self.patch_size, self.patch_stride, self.patch_padding
            )
            for size in (height, width)
        )
        return (batch, height, width, self.embed_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "patch_size": self.patch_size,
            "patch_stride": self.patch_stride,
            "patch_padding": self.patch_padding,
        }
