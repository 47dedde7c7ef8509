"""What the layers share that hold Dense layers: they survive saving quantized."""

import keras


class Quantizable(keras.layers.Layer):
    """A layer whose configuration remembers how its Dense layers are quantized.

    `quantize` changes the policies of single layers; without them a layer made from
    its configuration would not have the variables that were saved.
    """

    # A method: Keras names what it saves by the attributes that hold it, and a
    # property that holds layers is one.
    def linear_layers(self) -> list[keras.layers.Dense]:
        """Return the layers that `quantize` changes."""
        raise NotImplementedError

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
