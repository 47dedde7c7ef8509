"""The operations that take a block's time, in each backend's fastest form.

`keras_cvt._utils.backend_operations` has the forms that are not `keras.ops`.
"""

from typing import Any

import keras
from keras import layers, ops

from keras_cvt._utils import backend_operations as backend
from keras_cvt._utils import tensorflow_training
from keras_cvt.layers.padding import pad_map


def linear(layer: layers.Dense, x: Any, alpha: float = 1.0, beta: float = 1.0) -> Any:
    """Apply a Dense layer without an activation to rows (N, C).

    Args:
        layer: The layer.
        x: The rows.
        alpha: Factor of the product. Only if `scales_products` says so. Defaults to
            `1.0`.
        beta: Factor of the bias, likewise. Defaults to `1.0`.
    """
    if not scales_products(layer):
        return layer(x)
    return backend.torch_linear(x, layer.kernel, layer.bias, alpha, beta)


def scales_products(*linear_layers: layers.Dense) -> bool:
    """Return whether `linear` takes factors for these layers."""
    return backend.ON_TORCH and all(
        layer.use_bias and not layer.quantization_mode for layer in linear_layers
    )


def conv(layer: layers.Conv2D | layers.DepthwiseConv2D, x: Any, padding: int) -> Any:
    """Apply a convolution to a map (B, H, W, C) with zeros on every side.

    Args:
        layer: The layer. If its own padding is `"same"`, that is the same padding.
        x: The map.
        padding: Number of zeros on every side.
    """
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    bias = layer.bias if layer.use_bias else None
    if backend.ON_TORCH:
        strides = layer.strides
        return backend.torch_conv(x, layer.kernel, bias, strides, padding, depthwise)
    if depthwise and backend.on_jax_cpu():
        x = pad_map(x, padding)
        x = backend.shifted_products(x, layer.kernel, layer.strides)
        return x if bias is None else x + bias
    return layer(x if layer.padding == "same" else pad_map(x, padding))


def conv_norm(
    layer: layers.DepthwiseConv2D,
    norm: layers.BatchNormalization,
    x: Any,
    padding: int,
    training: bool | None,
) -> Any:
    """Apply a depthwise convolution without a bias, and BatchNorm."""
    if not backend.ON_TORCH or (training and norm.trainable):
        return norm(conv(layer, x, padding), training=training)
    # With its moving statistics, the norm is a factor of the kernel and a bias.
    kernel, bias = backend.torch_fold(layer.kernel, norm, x.dtype)
    return backend.torch_conv(x, kernel, bias, layer.strides, padding, True)


def attention(q: Any, k: Any, v: Any, scale: float) -> Any | None:
    """Return attention of (B, T, N, D) as one operation, or None without one."""
    if not backend.has_fused_attention():
        return None
    return ops.dot_product_attention(q, k, v, scale=scale)


# Normalises rows in training; None where Keras's layer is as fast.
batch_norm = {
    "tensorflow": tensorflow_training.batch_norm,
    "torch": backend.torch_batch_norm,
}.get(keras.backend.backend())
