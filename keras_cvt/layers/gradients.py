"""Functions with custom gradients, for training on TensorFlow.

TensorFlow differentiates operation by operation, and on processors runs each as a pass
over the whole map. These gradients are the same in fewer passes. JAX's compiler fuses
the passes by itself, and PyTorch has kernels, so that both get Keras's functions.
"""

import keras
from keras import ops

from keras_cvt.layers.shapes import size


def use_custom_gradients(training: bool | None) -> bool:
    """Whether to use these functions: in training on TensorFlow alone.

    Evaluation does without, so that no exported graph holds a gradient of ours.
    """
    return bool(training) and keras.backend.backend() == "tensorflow"


@ops.custom_gradient
def quick_gelu(x):
    """Return `x * sigmoid(1.702 x)`."""
    import tensorflow as tf

    scaled = 1.702 * x
    gate = ops.sigmoid(scaled)

    def gradient(upstream):
        # The sigmoid's own gradient, scaled * gate * (1 - gate), is one pass.
        slope = tf.raw_ops.SigmoidGrad(y=gate, dy=scaled)
        return upstream * (gate + slope)

    return x * gate, gradient


def layer_norm(x, gamma, beta, epsilon: float):
    """Normalise the rows of x (N, C), then scale and shift its columns."""

    @ops.custom_gradient
    def normalise(x, gamma, beta):
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
            return dx, ops.sum(product, axis=0), ops.sum(upstream, axis=0)

        return normal * gamma + beta, gradient

    return normalise(x, gamma, beta)


def batch_norm(x, gamma, beta, epsilon: float):
    """Normalise the columns of x (N, C), then scale and shift them.

    Returns:
        The result, and the columns' means and variances (C,), which pass no gradient.
    """

    @ops.custom_gradient
    def normalise(x, gamma, beta):
        mean, variance = ops.moments(x, axes=(0,))
        inverse = ops.rsqrt(variance + epsilon)
        scale = inverse * gamma

        def gradient(upstream, *_):
            centered = x - mean
            dbeta = ops.sum(upstream, axis=0)
            dgamma = ops.sum(upstream * centered, axis=0) * inverse
            share = scale / ops.cast(size(x, 0), x.dtype)
            slope = share * inverse * dgamma
            dx = upstream * scale - centered * slope - share * dbeta
            return dx, dgamma, dbeta

        return (x * scale + (beta - mean * scale), mean, variance), gradient

    return normalise(x, gamma, beta)
