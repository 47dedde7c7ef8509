"""The convolutional part of a query, key or value projection."""

from typing import Any

import keras
from keras import ops

from keras_cvt._utils import validation
from keras_cvt.layers import initializers, kernels
from keras_cvt.layers.base import CvTLayer
from keras_cvt.layers.norms import BatchNorm
from keras_cvt.layers.padding import pad_map
from keras_cvt.layers.shapes import size


@keras.saving.register_keras_serializable(package="keras_cvt")
class ConvProjection(CvTLayer):
    """The convolution in front of the linear layer of a query, key or value.

    Args:
        projection: One of:

            - `"dw_bn"`: a depthwise convolution and BatchNorm.
            - `"avg"`: PyTorch's `AvgPool2d` with `ceil_mode=True` and
              `count_include_pad=True`.
            - `"linear"`: the identity.

            Defaults to `"dw_bn"`.
        kernel_size: Kernel size. Defaults to `3`.
        stride: Stride. Defaults to `1`.
        padding: Zeros added on every side. Defaults to `1`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: A feature map (B, H, W, C).

    Returns:
        A feature map (B, H', W', C). With `"dw_bn"`,
        `H' = (H + 2 * padding - kernel_size) // stride + 1`. `"avg"` rounds up
        instead, and `"linear"` keeps H and W.

    Raises:
        ValueError: If an argument is out of range or the input is too small.

    Example:
        >>> layer = keras_cvt.layers.ConvProjection("dw_bn", 3, stride=2, padding=1)
        >>> layer(keras.ops.ones((1, 14, 14, 384))).shape
        (1, 7, 7, 384)

    Reference:
        Paper section 3.2; `_build_projection` of the official `Attention`.
    """

    def __init__(
        self,
        projection: str = "dw_bn",
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        validation.check_choice(validation.PROJECTIONS, projection=projection)
        validation.check_int(1, kernel_size=kernel_size, stride=stride)
        validation.check_int(0, padding=padding)
        validation.check_pooling(projection, kernel_size, padding)
        self._store(ConvProjection.__init__, locals())

    def build(self, input_shape):
        self.compute_output_shape(input_shape)
        if self.projection != "dw_bn":
            return
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})
        # "same" saves a padded copy of the map. It equals PyTorch's symmetric padding
        # only if the stride is 1.
        same = self.stride == 1 and 2 * self.padding == self.kernel_size - 1
        self.conv = self._sublayer(
            keras.layers.DepthwiseConv2D,
            "conv",
            self.kernel_size,
            strides=self.stride,
            padding="same" if same else "valid",
            data_format="channels_last",
            use_bias=False,
            depthwise_initializer=initializers.conv(self.kernel_size**2),
        )
        self.bn = self._sublayer(BatchNorm, "bn")
        channels_only = (None, None, None, input_shape[-1])
        self.conv.build(channels_only)
        self.bn.build(channels_only)

    def call(self, inputs, training=None):
        if self.projection == "linear":
            return inputs
        self.compute_output_shape(inputs.shape)  # raises if the input is too small
        if self.projection == "avg":
            return self._average_pool(inputs)
        return kernels.conv_norm(self.conv, self.bn, inputs, self.padding, training)

    def _average_pool(self, x):
        if self.stride == 1:
            return self._pool(pad_map(x, self.padding))
        height, width = size(x, 1), size(x, 2)
        # In ceil mode the last window may reach past the padded map, by up to
        # `stride - 1` positions. It starts inside, so `kernel_size - 1` is a limit as
        # well. The mean counts the padding, but not the positions past it.
        past = min(self.stride, self.kernel_size) - 1
        padded = (1, height + 2 * self.padding, width + 2 * self.padding, 1)
        inside = pad_map(ops.ones(padded, x.dtype), 0, past)
        mean = self._pool(pad_map(x, self.padding, self.padding + past))
        mean = mean / self._pool(inside)
        if self.stride + self.padding > self.kernel_size:
            # PyTorch drops a last window that starts in the padding.
            rows = -(-(height + self.padding) // self.stride)
            columns = -(-(width + self.padding) // self.stride)
            mean = mean[:, :rows, :columns]
        return mean

    def _pool(self, x):
        return ops.average_pool(
            x, self.kernel_size, self.stride, "valid", data_format="channels_last"
        )

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        kernel = (self.kernel_size, self.stride, self.padding)
        sizes = (
            validation.projection_output_size(self.projection, size, *kernel)
            for size in (height, width)
        )
        return (batch, *sizes, channels)
