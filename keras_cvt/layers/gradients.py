"""Functions with gradients put together by hand, for training on TensorFlow.

TensorFlow differentiates operation by operation, and runs each as a pass over the
whole map. These gradients are the same in fewer passes. JAX's compiler fuses the
passes by itself, and PyTorch has kernels, so that both get Keras's functions.
"""

import keras
from keras import ops


def by_hand(training: bool | None) -> bool:
    """Whether to use these functions: in training on TensorFlow alone.

    Evaluation does without, so that no exported graph holds a gradient of ours.
    """
    return bool(training) and keras.backend.backend() == "tensorflow"


@ops.custom_gradient
def quick_gelu(x):
    """Return `x * sigmoid(1.702 x)`."""
    gate = ops.sigmoid(1.702 * x)
    y = x * gate

    def gradient(upstream):
        return upstream * (gate + (1.702 - 1.702 * gate) * y)

    return y, gradient


@ops.custom_gradient
def layer_norm(x, gamma, beta, epsilon):
    """Normalise the rows of x (N, C), then scale and shift its columns."""
    centered = x - ops.mean(x, axis=1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=1, keepdims=True)
    inverse = ops.rsqrt(variance + epsilon)
    normal = centered * inverse

    def gradient(upstream):
        product = upstream * normal
        # A product with it is the mean over a row, weighted by gamma.
        weights = ops.expand_dims(gamma / x.shape[1], 1)
        mean = ops.matmul(upstream, weights)
        covariance = ops.matmul(product, weights)
        dx = (upstream * gamma - normal * covariance - mean) * inverse
        dgamma, dbeta = ops.sum(product, axis=0), ops.sum(upstream, axis=0)
        return dx, dgamma, dbeta, ops.zeros_like(epsilon)

    return normal * gamma + beta, gradient


@ops.custom_gradient
def batch_norm(x, gamma, beta, mean, inverse):
    """Normalise the columns of x (N, C) by what was measured over them.

    Args:
        x: Rows.
        gamma: Scale (C,).
        beta: Shift (C,).
        mean: The columns' means (C,), whose dependence on x is part of x's gradient.
        inverse: The columns' inverse deviations (C,), likewise.
    """
    scale = inverse * gamma

    def gradient(upstream):
        centered = x - mean
        count = ops.cast(ops.shape(x)[0], x.dtype)
        dbeta = ops.sum(upstream, axis=0)
        dgamma = ops.sum(upstream * centered, axis=0) * inverse
        slope = scale * inverse * dgamma / count
        dx = upstream * scale - centered * slope - scale * dbeta / count
        return dx, dgamma, dbeta, ops.zeros_like(mean), ops.zeros_like(inverse)

    return x * scale + (beta - mean * scale), gradient
