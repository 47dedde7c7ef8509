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
    if backend.ON_TORCH and _is_plain(layer):
        return backend.torch_linear(x, layer.kernel, layer.bias, alpha, beta)
    if alpha == beta == 1.0:
        return layer(x)
    return backend.scaled_linear(x, layer.kernel, layer.bias, alpha, beta)


def scales_products(training: bool | None, *linear_layers: layers.Dense) -> bool:
    """Return whether `linear` can take factors for these layers, and is fast."""
    if not all(map(_is_plain, linear_layers)):
        return False
    if backend.ON_TENSORFLOW:
        # Its graph optimiser makes SiLU one operation if there is no gradient. The
        # scaled numbers may be too large for float16.
        low = any(layer.compute_dtype == "float16" for layer in linear_layers)
        return not training and not low
    return backend.ON_TORCH


def _is_plain(layer):
    return layer.use_bias and not layer.quantization_mode


def conv(layer: layers.Conv2D | layers.DepthwiseConv2D, x: Any, padding: int) -> Any:
    """Apply a convolution to a map (B, H, W, C) with zeros on every side.

    Args:
        layer: The layer. If its own padding is `"same"`, that is the same padding.
        x: The map.
        padding: Number of zeros on every side.
    """
    bias = layer.bias if layer.use_bias else None
    if isinstance(layer, layers.DepthwiseConv2D):
        return _depthwise(layer, layer.kernel, bias, x, padding)
    if backend.ON_TORCH:
        return backend.torch_conv(x, layer.kernel, bias, layer.strides, padding, False)
    return layer(x if layer.padding == "same" else pad_map(x, padding))


def conv_norm(
    layer: layers.DepthwiseConv2D,
    norm: layers.BatchNormalization,
    x: Any,
    padding: int,
    training: bool | None,
) -> Any:
    """Apply a depthwise convolution without a bias, and BatchNorm."""
    kernel = layer.kernel
    if backend.differentiates_in_float32(x, training):
        dtype = keras.backend.result_type(x.dtype, "float32")
        x, kernel = backend.cast(x, dtype), ops.cast(kernel, dtype)
    if training and norm.trainable:
        return norm(_depthwise(layer, kernel, None, x, padding), training=training)
    # With its moving statistics, the norm is a factor of the kernel and a bias.
    kernel, bias = backend.fold_norm(kernel, norm, x.dtype)
    x = _depthwise(layer, kernel, bias, x, padding)
    return backend.cast(x, layer.compute_dtype)


def _depthwise(layer, kernel, bias, x, padding):
    if backend.ON_TORCH:
        return backend.torch_conv(x, kernel, bias, layer.strides, padding, True)
    if backend.on_jax_cpu():
        x = backend.shifted_products(pad_map(x, padding), kernel, layer.strides)
    else:
        x = x if layer.padding == "same" else pad_map(x, padding)
        x = ops.depthwise_conv(
            x, kernel, layer.strides, layer.padding, data_format="channels_last"
        )
    return x if bias is None else ops.add(x, ops.reshape(bias, (1, 1, 1, -1)))


def layer_norm(layer: layers.LayerNormalization, x: Any) -> Any | None:
    """Apply LayerNorm over the last axis, or return None where Keras is as fast."""
    if backend.ON_TORCH and layer.compute_dtype == "float32":
        return backend.torch_layer_norm(x, layer.gamma, layer.beta, layer.epsilon)
    if not backend.ON_TENSORFLOW:
        return None
    # TensorFlow runs each operation as a pass over the map: this has fewer of them.
    dtype = keras.backend.result_type(x.dtype, "float32")
    x, gamma, beta = (ops.cast(v, dtype) for v in (x, layer.gamma, layer.beta))
    x = x - ops.mean(x, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
    x = x * (ops.rsqrt(variance + layer.epsilon) * gamma) + beta
    return ops.cast(x, layer.compute_dtype)


def attention(
    q: Any, k: Any, v: Any, scale: float, training: bool | None
) -> Any | None:
    """Return attention of (B, T, N, D), or None where its parts are as fast."""
    keys = k.shape[1]
    if backend.image_by_image(q, keys, training):
        return backend.jax_attention(q, k, v, scale)
    if backend.has_fused_attention(q, keys):
        if backend.ON_TORCH:
            return backend.torch_attention(q, k, v, scale)
        return ops.dot_product_attention(q, k, v, scale=scale)
    return None


# Normalises rows in training; None where Keras's layer is as fast.
batch_norm = {
    "tensorflow": tensorflow_training.batch_norm,
    "torch": backend.torch_batch_norm,
}.get(keras.backend.backend())
