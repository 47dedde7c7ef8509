"""The optimizers against Keras's own, and what they add."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_cvt.training import SGD, AdamW

pytestmark = pytest.mark.any_backend

GRADIENTS = np.random.default_rng(0).normal(size=(4, 3, 5)).astype("float32")


def variables():
    rng = np.random.default_rng(1)
    layer = keras.layers.Dense(5, name="head")
    layer.build((None, 3))
    layer.kernel.assign(rng.normal(size=(3, 5)))
    layer.bias.assign(rng.normal(size=5))
    return [layer.kernel, layer.bias]


def after_steps(optimizer, dtype="float32"):
    kernel, bias = variables()
    optimizer.build([kernel, bias])
    for gradient in GRADIENTS:
        optimizer.apply([ops.cast(gradient, dtype), ops.cast(gradient[0], dtype)])
    return ops.convert_to_numpy(kernel), ops.convert_to_numpy(bias)


def assert_equal(ours, keras_own):
    for a, b in zip(ours, keras_own, strict=True):
        # Fused or not, a step is rounded in another order.
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=5e-6)


@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True}, {"global_clipnorm": 0.5}, {"use_ema": True}]
)
def test_adamw_computes_what_kerass_does(options):
    rates = {"learning_rate": 0.01, "epsilon": 1e-8, **options}
    ours = after_steps(AdamW(weight_decay=0.3, no_decay=(), **rates))
    assert_equal(ours, after_steps(keras.optimizers.AdamW(weight_decay=0.3, **rates)))


def test_adamw_accumulates_gradients_as_kerass_does():
    rates = {"learning_rate": 0.01, "epsilon": 1e-8, "gradient_accumulation_steps": 2}
    ours = after_steps(AdamW(**rates))
    assert_equal(ours, after_steps(keras.optimizers.Adam(**rates)))


def test_sgd_computes_what_kerass_does():
    ours = after_steps(SGD(0.1, momentum=0.9))
    assert_equal(ours, after_steps(keras.optimizers.SGD(0.1, momentum=0.9)))


def test_a_schedule_sets_the_learning_rate_of_each_step():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 4)
    ours = after_steps(AdamW(schedule, epsilon=1e-8))
    assert_equal(ours, after_steps(keras.optimizers.Adam(schedule, epsilon=1e-8)))


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
def test_a_bias_is_not_decayed(optimizer):
    decayed = after_steps(optimizer(0.01, weight_decay=0.5))
    plain = after_steps(optimizer(0.01))
    np.testing.assert_array_equal(decayed[1], plain[1])
    assert np.abs(decayed[0] - plain[0]).max() > 1e-3


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
def test_a_multiplier_scales_the_learning_rate_and_the_decay(optimizer):
    scaled = after_steps(
        optimizer(0.02, weight_decay=0.5, multipliers={"he": 9.0, "head/": 0.5})
    )
    assert_equal(scaled, after_steps(optimizer(0.01, weight_decay=0.5)))


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
def test_an_optimizer_survives_serialization(optimizer):
    options = {"weight_decay": 0.5, "no_decay": ["kernel"], "multipliers": {"h": 0.5}}
    built = optimizer(0.01, **options)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(built))
    assert type(loaded) is optimizer
    assert_equal(after_steps(loaded), after_steps(built))


@pytest.mark.parametrize("optimizer", [AdamW, SGD])
@pytest.mark.parametrize(
    "options", [{"weight_decay": -0.1}, {"multipliers": {"head": -1.0}}]
)
def test_negative_rates_are_refused(optimizer, options):
    with pytest.raises(ValueError, match="Received: "):
        optimizer(0.01, **options)


def test_kerass_way_to_exclude_is_answered_with_ours():
    with pytest.raises(NotImplementedError, match="no_decay"):
        AdamW().exclude_from_weight_decay(var_names=["bias"])
