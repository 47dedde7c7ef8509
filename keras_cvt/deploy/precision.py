"""The same network in float32, which is what is exported and compared."""

import keras

from keras_cvt.deploy.fusion import check_float, copy_layers


def in_float32(model: keras.Model) -> keras.Model:
    """Return a model that computes in float32 with the model's own weights.

    In mixed precision these are the float32 weights that the training changes.

    Args:
        model: A functional model of any floating-point precision. It does not change.

    Returns:
        A new model of the same class, or the model itself if it is in float32.

    Raises:
        ValueError: If the model is quantized, or is not in float32 and has LoRA
            weights.
    """
    check_float(model, lora=False)
    layers = model._flatten_layers(include_self=False)
    if all(layer.dtype_policy.name == "float32" for layer in layers):
        return model
    check_float(model)

    def clone(layer):
        return type(layer).from_config(_float32(layer.get_config()))

    policy = keras.config.dtype_policy()
    # Layers without a policy of their own take this one.
    keras.config.set_dtype_policy("float32")
    try:
        return copy_layers(model, clone)
    finally:
        keras.config.set_dtype_policy(policy)


def _float32(config):
    """Return a layer's configuration with all dtype policies in it in float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": "float32"}}
        return {key: _float32(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(map(_float32, config))
    return config
