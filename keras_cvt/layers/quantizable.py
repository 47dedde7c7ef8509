"""The base class of layers that keep their quantization when they are saved."""

import keras

from keras_cvt.layers import initializers
from keras_cvt.layers.base import CvTLayer


class Quantizable(CvTLayer):
    """A layer whose configuration contains the policies of its Dense layers.

    `quantize` gives each Dense layer another policy and other variables. A layer that
    is made from its configuration needs the same policies to load those variables.
    """

    # A method, because Keras would save a property that returns layers.
    def linear_layers(self) -> list[keras.layers.Dense]:
        """Return the layers that `quantize` changes, in a fixed order."""
        raise NotImplementedError

    def _linear(self, name, units, use_bias=True):
        return self._sublayer(
            keras.layers.Dense,
            name,
            units,
            use_bias=use_bias,
            kernel_initializer=initializers.linear_kernel(self.init),
        )

    def get_config(self):
        config = super().get_config()
        policies = [
            keras.dtype_policies.serialize(layer.dtype_policy)
            if layer.quantization_mode
            else None
            for layer in self.linear_layers()
        ]
        if any(policies):
            config["linear_policies"] = policies
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        policies = config.pop("linear_policies", None)
        layer = super().from_config(config)
        if policies is not None:
            for linear, policy in zip(layer.linear_layers(), policies, strict=True):
                if policy is not None:
                    linear.dtype_policy = keras.dtype_policies.deserialize(policy)
        return layer
