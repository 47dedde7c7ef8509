"""Norms and activations with gradients by hand equal those without."""

import keras
import numpy as np
import pytest
from gradients import gradients
from reference import normal, randomise, to_numpy

from keras_cvt.layers.mlp import quick_gelu
from keras_cvt.layers.norms import BatchNorm, LayerNorm

pytestmark = pytest.mark.any_backend

SHAPE = (4, 5, 6, 8)
# (ours, Keras's, PyTorch's constants for the latter)
PAIRS = {
    "LayerNorm": (LayerNorm, keras.layers.LayerNormalization, {"epsilon": 1e-5}),
    "BatchNorm": (
        BatchNorm,
        keras.layers.BatchNormalization,
        {"epsilon": 1e-5, "momentum": 0.9},
    ),
}
# Of `compile`. Only TensorFlow's gradients differ from Keras's.
TENSORFLOW = keras.backend.backend() == "tensorflow"
OPTIONS = [None, "run_eagerly", "jit_compile"] if TENSORFLOW else [None]
pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


def make(layer, **options):
    """Return a layer with random variables, the same for the same variables."""
    layer = layer(**options, name="layer")
    layer.build(SHAPE)
    randomise(layer)
    return layer


def both(pair, **kwargs):
    ours, theirs, constants = pair
    return make(ours, **kwargs), make(theirs, **constants, **kwargs)


def images():
    return normal(SHAPE) + 3


def trained(layer, batch_size, **options):
    """Return gradients of the input and the variables, and what it leaves behind."""
    # The input's gradient is that of a bias on it, which is trained as well.
    bias = keras.layers.EinsumDense("bhwc,cd->bhwd", SHAPE[1:], bias_axes="hwd")
    inputs = keras.Input(SHAPE[1:], batch_size=batch_size)
    model = keras.Model(inputs, layer(bias(inputs)))
    bias.set_weights([np.eye(SHAPE[-1]), np.zeros(SHAPE[1:])])
    # A loss whose gradient depends on the outputs: of a linear one, TensorFlow's graph
    # optimizer lets a variable be updated before its value has been read.
    found = gradients(model, "mse", images(), normal(SHAPE, seed=1), **options)
    return [*found.values(), *to_numpy(layer.non_trainable_variables)]


@pairs
@pytest.mark.parametrize("batch_size", [SHAPE[0], None])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_training_step_equals_that_of_keras(pair, batch_size, option):
    options = {option: True} if option else {}
    ours, theirs = (trained(layer, batch_size, **options) for layer in both(pair))
    assert len(ours) == len(theirs) > 2
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)


@pairs
@pytest.mark.parametrize("training", [False, True])
def test_outputs_equal_those_of_keras(pair, training):
    ours, theirs = both(pair)
    np.testing.assert_allclose(
        to_numpy(ours(images(), training=training)),
        to_numpy(theirs(images(), training=training)),
        rtol=0,
        atol=2e-5,
    )


@pairs
def test_half_precision_is_normalised_in_float32(pair):
    exact, half = (make(pair[0], dtype=d) for d in ("float32", "mixed_float16"))
    half.set_weights(exact.get_weights())
    # Their squares, 160,000, float16 cannot hold.
    x = (100 * (images() + 1)).astype("float16")
    outputs = half(x, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    error = to_numpy(outputs) - to_numpy(exact(x.astype("float32"), training=True))
    assert np.abs(error).max() < 0.01


@pairs
def test_double_precision_stays_double(pair):
    if keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless the whole program asks for it")
    ours, theirs = both(pair, dtype="float64")
    x = images().astype("float64")
    outputs = ours(x, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float64"
    expected = to_numpy(theirs(x, training=True))
    # On PyTorch, Keras's norms compute in float32 whatever the layer's type is.
    atol = 1e-12 if TENSORFLOW else 1e-5
    np.testing.assert_allclose(to_numpy(outputs), expected, rtol=0, atol=atol)


def test_a_frozen_batch_norm_uses_and_keeps_its_statistics():
    layer = make(BatchNorm)
    layer.trainable = False
    before = layer.get_weights()
    evaluated = to_numpy(layer(images(), training=False))
    np.testing.assert_array_equal(to_numpy(layer(images(), training=True)), evaluated)
    for new, old in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(new, old)


@pairs
def test_a_layer_is_made_again_from_its_configuration(pair):
    layer = pair[0](epsilon=1e-3, name="other", dtype="mixed_bfloat16")
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    assert again.epsilon == 1e-3


def test_quick_gelu_has_its_gradient():
    x = np.linspace(-8, 8, 65, dtype="float32").reshape(1, 65)
    bias = keras.layers.EinsumDense("bc,cd->bd", 65, bias_axes="d")
    inputs = keras.Input((65,))
    outputs = keras.layers.Lambda(lambda y: quick_gelu(y, training=True))(bias(inputs))
    model = keras.Model(inputs, outputs)
    bias.set_weights([np.eye(65), np.zeros(65)])
    found = gradients(model, lambda _, y: keras.ops.sum(y), x, x)
    gate = 1 / (1 + np.exp(-1.702 * x[0].astype("float64")))
    expected = gate + 1.702 * x[0] * gate * (1 - gate)
    np.testing.assert_allclose(found[bias.bias.path], expected, rtol=0, atol=2e-5)
