"""AdamW and SGD with selective weight decay and learning rates by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_cvt._utils import validation
from keras_cvt._utils.tensorflow_training import FusedAdam

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
        # On TensorFlow, `update_step` gets variables that do not know their path.
        self._paths = [variable.path for variable in variables]
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        # Variables with the same rate share it: it is computed once per step.
        self._rates = {}
        super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        own_rate = self._decayed(variable, learning_rate)
        super().update_step(gradient, variable, own_rate)

    def _decayed(self, variable, learning_rate):
        """Decay the variable and return its own learning rate."""
        path = self._paths[self._get_variable_index(variable)]
        fitting = [prefix for prefix in self.multipliers if path.startswith(prefix)]
        multiplier = self.multipliers[max(fitting, key=len)] if fitting else 1
        key = multiplier, str(variable.dtype)
        if key not in self._rates:
            # Not in place: on PyTorch this tensor is the one of all variables.
            rate = ops.cast(learning_rate, variable.dtype) * multiplier
            self._rates[key] = rate, rate * self.decay
        rate, decay = self._rates[key]
        if self.decay and path.rpartition("/")[2] not in self.no_decay:
            self.assign_sub(variable, variable * decay)
        return rate

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        raise NotImplementedError(
            "This optimizer leaves out variables by their names: pass `no_decay`. "
            f"Its value is {self.no_decay}."
        )

    def get_config(self):
        return {
            **super().get_config(),
            "multipliers": self.multipliers,
            "weight_decay": self.decay,
            "no_decay": list(self.no_decay),
        }


@keras.saving.register_keras_serializable(package="keras_cvt")
class AdamW(_PerVariable, keras.optimizers.Adam):
    """AdamW whose weight decay leaves out biases, norms and class tokens.

    It computes what `keras.optimizers.AdamW` computes. On TensorFlow it does so with
    fewer operations, and so the first step starts sooner.

    Args:
        learning_rate: Number or schedule. Defaults to `0.001`.
        weight_decay: Decoupled weight decay. It is multiplied by the learning rate.
            Defaults to `0.0`.
        beta_1: Decay of the first moment. Defaults to `0.9`.
        beta_2: Decay of the second moment. Defaults to `0.999`.
        epsilon: Number that is added to the root of the second moment. Defaults to
            `1e-8`.
        no_decay: Names of the variables that are not decayed. Defaults to
            `("bias", "gamma", "beta", "token")`.
        multipliers: Factors of the learning rate and the decay. Each key is the
            beginning of a variable's path, such as `"stage0/blocks/0/"`; the longest
            key that fits counts. See `layer_learning_rates`. Defaults to `None`.
        **kwargs: Arguments of `keras.optimizers.Adam`: `clipnorm`,
            `global_clipnorm`, `use_ema`, `gradient_accumulation_steps`, `name`, ...

    Raises:
        ValueError: If a rate or a multiplier is negative.

    Reference:
        "Decoupled Weight Decay Regularization", arXiv 1711.05101.
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
        self._fused = FusedAdam(self) if FusedAdam.supports(self) else None
        super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        if self._fused:
            own_rate = self._decayed(variable, learning_rate)
            self._fused.update(gradient, variable, own_rate)
        else:
            super().update_step(gradient, variable, learning_rate)


@keras.saving.register_keras_serializable(package="keras_cvt")
class SGD(_PerVariable, keras.optimizers.SGD):
    """SGD with decoupled weight decay and learning rates by layer.

    Args:
        learning_rate: Number or schedule. Defaults to `0.01`.
        momentum: Momentum, 0 for plain gradient descent. Defaults to `0.0`.
        weight_decay: Decoupled weight decay. It is multiplied by the learning rate.
            Defaults to `0.0`.
        no_decay: Names of the variables that are not decayed. Defaults to
            `("bias", "gamma", "beta", "token")`.
        multipliers: Factors of the learning rate; see `AdamW`. Defaults to `None`.
        **kwargs: Arguments of `keras.optimizers.SGD`.

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
