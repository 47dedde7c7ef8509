"""Gradients as `fit` sees them, on any backend."""

import keras

# A large rate, so that little of a small gradient is lost beside its weight.
_LEARNING_RATE = 2.0**12


def gradients(model, loss, images, labels, **options):
    """Return each trainable variable's gradient by path; the model has stepped.

    The options are those of `compile`.
    """
    model.compile(keras.optimizers.SGD(_LEARNING_RATE), loss, **options)
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.trainable_variables}
    model.train_on_batch(images, labels)
    return {
        v.path: (before[v.path] - keras.ops.convert_to_numpy(v)) / _LEARNING_RATE
        for v in model.trainable_variables
    }
