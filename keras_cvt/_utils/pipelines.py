"""Pipelines without tf.data's tuner, for which the end of a loop waits.

The tuner looks at a pipeline 10, 30, 70, ... 2550, 5110 ms after its start. The end of
a loop often waits for the next look: benchmarks/tuner_wait.py shows it without Keras.
"""

import os
from typing import Any

from keras_cvt._utils.optional import tf


def untuned(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """Return a data set with the tuner off, unless its own options turn it on."""
    own = dataset.options().autotune
    options = tf.data.Options()
    if own.enabled is None:
        options.autotune.enabled = False
        if own.initial_parallelism is None:
            # Without the tuner, TensorFlow would use 16 threads at most.
            options.autotune.initial_parallelism = os.cpu_count()
    return dataset.with_options(options)


class StrategyWithoutTuner:
    """A distribution strategy whose loops read data sets without tf.data's tuner.

    `fit`, `evaluate` and `predict` give every data set to the strategy, also those that
    they make of arrays.

    Args:
        strategy: The strategy that does everything else.
    """

    def __init__(self, strategy: Any):
        self._strategy = strategy

    def __getattr__(self, name):
        if name == "_strategy":  # `copy` asks before there is one
            raise AttributeError(name)
        return getattr(self._strategy, name)

    def experimental_distribute_dataset(self, dataset: Any, options: Any = None) -> Any:
        return self._strategy.experimental_distribute_dataset(untuned(dataset), options)
