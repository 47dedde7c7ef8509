"""Operations of one backend that are faster than what `keras.ops` composes there.

Measured (benchmarks/RESULTS.md):

- PyTorch: a product with its bias, and a convolution of the map as it lies in memory,
  are one operation each.
- PyTorch and TensorFlow on a CPU: some operations are much slower in bfloat16.
- JAX on a CPU: the compiler runs a depthwise convolution 5 to 25 times slower than the
  sum of the products of the shifted map and the kernel's elements.

All compute the same as Keras's layers, and have gradients.
"""

from typing import Any

import keras
from keras import ops

_BACKEND = keras.backend.backend()
ON_TENSORFLOW = _BACKEND == "tensorflow"
ON_TORCH = _BACKEND == "torch"
if ON_TENSORFLOW:
    import tensorflow as tf
elif ON_TORCH:
    import torch
elif _BACKEND == "jax":
    import jax


def on_jax_cpu() -> bool:
    """Return whether JAX computes on a CPU."""
    return _BACKEND == "jax" and jax.default_backend() == "cpu"


def differentiates_in_float32(x: Any, training: bool | None) -> bool:
    """Return whether a depthwise convolution that is differentiated needs float32.

    On a CPU, its gradients in bfloat16 take 10 to 36 times as long: with TensorFlow
    all, with PyTorch those of strided convolutions.
    """
    if ON_TENSORFLOW:
        return bool(training) and not tf.config.get_visible_devices("GPU")
    return ON_TORCH and x.device.type == "cpu" and torch.is_grad_enabled()


def needs_call(layer: keras.Layer) -> bool:
    """Return whether PyTorch or Keras do more in `__call__` than to run `call`."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or torch.nn.modules.module._has_any_global_hook()
        or getattr(layer, "_remat_mode", None)
        or layer.activity_regularizer
    )


def has_fused_attention(q: Any, keys: Any) -> bool:
    """Return whether to compute attention as one operation.

    Args:
        q: The queries.
        keys: Number of keys. Symbolic while PyTorch exports a program.
    """
    if not ON_TORCH:
        # On a processor, and on TensorFlow, it is composed of others.
        return _BACKEND == "jax" and not on_jax_cpu()
    # On a processor, its gradient in bfloat16 takes 2 to 5 times as long as that of
    # the products, unless there are many keys.
    low = q.element_size() < 4 and q.device.type == "cpu"
    return not (low and q.requires_grad and isinstance(keys, int) and keys < 512)


def image_by_image(q: Any, keys: Any, training: bool | None) -> bool:
    """Return whether `jax_attention` is fast: on a CPU, with a million scores a head.

    Its gradients are slow, also those of a model in evaluation. A batch that is spread
    over devices, or a symbolic shape, is computed at once.
    """
    queries = q.shape[1]
    known = isinstance(queries, int) and isinstance(keys, int)
    if not (on_jax_cpu() and known and queries * keys >= 2**20):
        return False
    return not training and keras.distribution.distribution() is None


def jax_attention(q: Any, k: Any, v: Any, scale: float) -> Any:
    """Return attention of (B, T, N, D), one image after another.

    XLA multiplies large matrices of several images at once two times slower on a CPU.
    """

    def attend(image):
        q, k, v = (x.swapaxes(0, 1) for x in image)
        scores = q @ (k * scale).swapaxes(1, 2)
        scores = jax.nn.softmax(scores.astype("float32")).astype(v.dtype)
        return (scores @ v).swapaxes(0, 1)

    return jax.lax.map(attend, (q, k, v))


def torch_linear(x: Any, kernel: Any, bias: Any, alpha: float, beta: float) -> Any:
    """Return `alpha * x @ kernel + beta * bias` of rows (N, C)."""
    return torch.addmm(bias.value, x, _tensor(kernel), alpha=alpha, beta=beta)


def torch_conv(
    x: Any, kernel: Any, bias: Any, strides: Any, padding: int, depthwise: bool
) -> Any:
    """Convolve a map (B, H, W, C) with Keras's kernel, and zeros on every side."""
    order = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
    x = torch.nn.functional.conv2d(
        x.permute(0, 3, 1, 2),
        _tensor(kernel).permute(order),
        None if bias is None else _tensor(bias),
        strides,
        padding,
        groups=x.shape[-1] if depthwise else 1,
    )
    return x.permute(0, 2, 3, 1)


def torch_batch_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Normalise the columns of x (N, C) by their own statistics; scale and shift them.

    Returns:
        The result, and the columns' means and biased variances (C,), which pass no
        gradient.
    """
    x, mean, inverse = torch.native_batch_norm(
        x, gamma, beta, None, None, True, 0.0, epsilon
    )
    with torch.no_grad():
        return x, mean, inverse**-2 - epsilon


def scaled_linear(x: Any, kernel: Any, bias: Any, alpha: float, beta: float) -> Any:
    """Return `alpha * x @ kernel + beta * bias` of rows (N, C).

    The smaller of the rows' matrix and the result is scaled.
    """

    def times(factor, tensor):
        # Half precision would round the factor as well.
        dtype = keras.backend.result_type(tensor.dtype, "float32")
        return ops.cast(factor * ops.cast(tensor, dtype), x.dtype)

    if kernel.shape[0] < kernel.shape[1]:
        return ops.add(ops.matmul(times(alpha, x), kernel), times(beta, bias))
    x = ops.add(ops.matmul(x, kernel), times(beta / alpha, bias))
    return times(alpha, x)


def fold_norm(kernel: Any, norm: keras.Layer, dtype: Any) -> tuple[Any, Any]:
    """Return a depthwise kernel (K, K, C, 1) and a bias that contain a BatchNorm."""
    wide = keras.backend.result_type(kernel.dtype, "float32")
    statistics = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    gamma, beta, mean, variance, kernel = (
        cast(_tensor(v), wide) for v in (*statistics, kernel)
    )
    root = (torch if ON_TORCH else ops).rsqrt(variance + norm.epsilon)
    scale = gamma * root
    return cast(kernel * scale[:, None], dtype), cast(beta - mean * scale, dtype)


def reshape(x: Any, shape: Any) -> Any:
    """Return `ops.reshape`, whose check for symbolic tensors takes long on PyTorch."""
    return x.reshape(shape) if ON_TORCH else ops.reshape(x, shape)


def cast(x: Any, dtype: Any) -> Any:
    """Return `ops.cast`, likewise."""
    if not ON_TORCH:
        return ops.cast(x, dtype)
    return x.to(dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype))


def torch_attention(q: Any, k: Any, v: Any, scale: float) -> Any:
    """Return attention of (B, T, N, D) as one operation."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    x = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)
    return x.transpose(1, 2)


def torch_layer_norm(x: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Normalise over the last axis, then scale and shift it."""
    weights = gamma.value, beta.value
    return torch.nn.functional.layer_norm(x, x.shape[-1:], *weights, epsilon)


def shifted_products(x: Any, kernel: Any, strides: tuple[int, int]) -> Any:
    """Convolve a map (B, H, W, C) with a depthwise kernel (K, K, C, 1)."""
    dtype = x.dtype
    # Half precision would round the sum after each of its terms.
    x, kernel = (ops.cast(tensor, "float32") for tensor in (x, kernel))
    total = 0.0
    for i in range(kernel.shape[0]):
        rows = x[:, i : x.shape[1] - kernel.shape[0] + 1 + i : strides[0]]
        for j in range(kernel.shape[1]):
            end = x.shape[2] - kernel.shape[1] + 1 + j
            total = total + rows[:, :, j : end : strides[1]] * kernel[i, j, :, 0]
    return ops.cast(total, dtype)


def _tensor(value):
    # With LoRA, a kernel is a sum and no variable.
    return value.value if isinstance(value, keras.Variable) else value
