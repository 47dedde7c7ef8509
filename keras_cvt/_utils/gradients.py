"""Gradients on the backend that Keras runs on."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras


def untracked() -> AbstractContextManager:
    """Return a context in which PyTorch keeps nothing for gradients."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Return the gradient of a scalar function at a tensor.

    Args:
        function: From a tensor like `x` to a scalar.
        x: The tensor.

    Returns:
        A tensor of the shape of `x`.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x)
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    if backend == "torch":
        import torch

        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(function(x), x)[0]
    raise RuntimeError(
        "Expected a backend with gradients: tensorflow, jax or torch. "
        f"Received: {backend}"
    )
