"""AdamW and SGD with what transformers are trained with beside the plain rule."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_cvt import validation

# Names of the variables that the official code does not decay: biases, the scales
# and shifts of norms, class tokens (`set_wd` of its `lib/optim/build.py`).
NO_DECAY = ("bias", "gamma", "beta", "token")


class _PerVariable:
    """Rates that depend on the variable: a learning rate's multiplier, or no decay."""

    def _check(self, multipliers, decay, no_decay):
        validation.check_non_negative(weight_decay=decay)
        for prefix, multiplier in multipliers.items():
            validation.check_non_negative(**{f"multipliers[{prefix!r}]": multiplier})
        self.multipliers = dict(multipliers)
        self.decay = decay
        self.no_decay = tuple(no_decay)

    def build(self, variables):
        # On TensorFlow, `update_step` gets variables that know no path.
        self._paths = [variable.path for variable in variables]
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        # What variables share is computed, and traced, once a step.
        self._rates = {}
        super().apply(grads, trainable_variables)

    def _decayed(self, variable, learning_rate):
        """Decay the variable and return its own learning rate."""
        path = self._paths[self._get_variable_index(variable)]
        fitting = [prefix for prefix in self.multipliers if path.startswith(prefix)]
        multiplier = self.multipliers[max(fitting, key=len)] if fitting else 1
        key = multiplier, str(variable.dtype)
        if key not in self._rates:
            # Not in place: on PyTorch it is the tensor of all variables.
            rate = ops.cast(learning_rate, variable.dtype) * multiplier
            self._rates[key] = rate, rate * self.decay
        rate, decay = self._rates[key]
        if self.decay and path.rpartition("/")[2] not in self.no_decay:
            self.assign_sub(variable, variable * decay)
        return rate

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        raise NotImplementedError(
            "This optimizer knows what it does not decay by the variables' names: "
            f"pass `no_decay`. It is {self.no_decay}."
        )

    def _options(self):
        return {
            "multipliers": self.multipliers,
            "weight_decay": self.decay,
            "no_decay": list(self.no_decay),
        }


@keras.saving.register_keras_serializable(package="keras_cvt")
class AdamW(_PerVariable, keras.optimizers.Adam):
    """AdamW (arXiv 1711.05101) whose decay leaves out biases, norms and tokens.

    It computes what `keras.optimizers.AdamW` does. On TensorFlow a variable's update
    is one fused operation instead of twenty: the graph of a step is traced in half
    the time.

    Args:
        learning_rate: A float or a schedule.
        weight_decay: Decoupled decay, multiplied by the learning rate.
        beta_1: Decay of the first moment.
        beta_2: Decay of the second moment.
        epsilon: Added to the root of the second moment.
        no_decay: Names of the variables that are not decayed.
        multipliers: Multiplier of the learning rate (of decay, too) by the
            beginning of a variable's path, `"stage0/blocks/0/"`; the longest that
            fits counts. See `layer_learning_rates`.
        **kwargs: Of `keras.optimizers.Adam`: `clipnorm`, `global_clipnorm`,
            `use_ema`, `gradient_accumulation_steps`, `name`, ...

    Raises:
        ValueError: If a rate or a multiplier is negative.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        no_decay: Sequence[str] = NO_DECAY,
        multipliers: Mapping[str, float] | None = None,
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            **kwargs,
        )
        self._check(multipliers or {}, weight_decay, no_decay)

    def apply(self, grads, trainable_variables=None):
        if self._is_fused():
            self._constants = self._adam_constants()
        return super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = self._decayed(variable, learning_rate)
        if self._is_fused():
            self._fused_step(gradient, variable, learning_rate)
        else:
            super().update_step(gradient, variable, learning_rate)

    def _is_fused(self):
        return keras.backend.backend() == "tensorflow" and not self.amsgrad

    def _adam_constants(self):
        """Return what all variables of a step share: traced once, not each time."""
        import tensorflow as tf

        step = tf.cast(ops.convert_to_tensor(self.iterations) + 1, "float32")
        return {
            "beta1_power": tf.pow(self.beta_1, step),
            "beta2_power": tf.pow(self.beta_2, step),
            "beta1": tf.constant(self.beta_1),
            "beta2": tf.constant(self.beta_2),
            "epsilon": tf.constant(self.epsilon),
        }

    def _fused_step(self, gradient, variable, learning_rate):
        import tensorflow as tf

        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            lr=learning_rate,
            grad=gradient,
            **{k: tf.cast(v, variable.dtype) for k, v in self._constants.items()},
        )

    def get_config(self):
        return {**super().get_config(), **self._options()}


@keras.saving.register_keras_serializable(package="keras_cvt")
class SGD(_PerVariable, keras.optimizers.SGD):
    """SGD with a decoupled decay and a learning rate for each layer.

    Args:
        learning_rate: A float or a schedule.
        momentum: 0 for plain gradient descent.
        weight_decay: Decoupled decay, multiplied by the learning rate.
        no_decay: Names of the variables that are not decayed.
        multipliers: As in `AdamW`.
        **kwargs: Of `keras.optimizers.SGD`.

    Raises:
        ValueError: If a rate or a multiplier is negative.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        no_decay: Sequence[str] = NO_DECAY,
        multipliers: Mapping[str, float] | None = None,
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, momentum=momentum, **kwargs)
        self._check(multipliers or {}, weight_decay, no_decay)

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = self._decayed(variable, learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), **self._options()}
