"""Validate and save the averaged weights, and train on with the raw ones."""

import keras
from keras import ops


def uses_averages(model: keras.Model) -> bool:
    """Return whether the model's optimizer averages weights (`use_ema=True`)."""
    # `LossScaleOptimizer` wraps the optimizer that averages.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return bool(optimizer is not None and optimizer.use_ema)


class AveragedWeights(keras.callbacks.Callback):
    """Puts the averaged weights into the model for validation and for saving.

    The averaged weights are in the model during each validation, and from this
    callback's end of an epoch to that of `restore_raw()`. Between the two belong the
    callbacks that save the model. Without `use_ema=True` nothing changes.

    `keras.callbacks.SwapEMAWeights` serves the same purpose. On TensorFlow it swaps by
    additions and subtractions, which round the weights that are trained, and it keeps
    the averages in the model until the next epoch begins. This class copies, and the
    training is bit for bit the one without it.
    """

    def __init__(self):
        super().__init__()
        self._raw = None

    def on_test_begin(self, logs=None):
        self._take_averages()

    def on_test_end(self, logs=None):
        self._take_raw()

    def on_epoch_end(self, epoch, logs=None):
        self._take_averages()

    def restore_raw(self) -> keras.callbacks.Callback:
        """Return a callback that puts the raw weights back at the end of an epoch."""
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: self._take_raw()
        )

    def on_train_end(self, logs=None):
        # Keras has put the averages into the model.
        if uses_averages(self.model):
            _own_memory(self.model)

    def _take_averages(self):
        if uses_averages(self.model):
            self._raw = [ops.copy(v) for v in self.model.trainable_variables]
            self.model.optimizer.finalize_variable_values(
                self.model.trainable_variables
            )
            _own_memory(self.model)

    def _take_raw(self):
        if self._raw is not None:
            for variable, value in zip(
                self.model.trainable_variables, self._raw, strict=True
            ):
                variable.assign(value)
            self._raw = None


def _own_memory(model):
    """Copy the model's weights, so that they share no memory with the averages.

    On JAX, Keras's optimizer gives both the same array. A step, also one of evaluation,
    deletes the arrays that it takes.
    """
    if keras.backend.backend() == "jax":
        for variable in model.trainable_variables:
            variable.assign(ops.copy(variable))
