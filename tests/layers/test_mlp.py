"""MLP: activations, width, dropout."""

import numpy as np
import pytest
from reference import normal, randomise, to_numpy

from keras_cvt.layers import MLP

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize(
    ("activation", "value"), [("quick_gelu", 0.8458), ("gelu", 0.8413)]
)
def test_the_activation_of_1(activation, value):
    layer = MLP(1, mlp_ratio=1, activation=activation)
    layer.build((None, None, 1))
    one, zero = np.ones((1, 1)), np.zeros(1)
    layer.set_weights([one, zero, one, zero])
    assert to_numpy(layer(np.ones((1, 1, 1)))).item() == pytest.approx(value, abs=5e-5)


def test_the_default_activation_is_quick_gelu_between_two_linear_layers():
    layer = MLP(4)
    layer.build((None, None, 4))
    randomise(layer)
    x = normal((2, 3, 4))
    kernel1, bias1, kernel2, bias2 = to_numpy(layer.weights)
    hidden = x @ kernel1 + bias1
    expected = hidden / (1 + np.exp(-1.702 * hidden)) @ kernel2 + bias2
    np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("embed_dim", "mlp_ratio", "units"), [(8, 4.0, 32), (7, 2.5, 17), (6, 0.5, 3)]
)
def test_the_hidden_width_is_rounded_down(embed_dim, mlp_ratio, units):
    assert MLP(embed_dim, mlp_ratio=mlp_ratio).fc1.units == units


def test_a_map_keeps_its_rows_and_columns():
    assert MLP(8)(normal((2, 3, 5, 4))).shape == (2, 3, 5, 8)


def test_dropout_acts_only_in_training():
    layer = MLP(64, mlp_ratio=1, drop_rate=0.5)
    x = normal((2, 10, 64))
    assert np.all(to_numpy(layer(x)) != 0)
    assert 0.4 < (to_numpy(layer(x, training=True)) == 0).mean() < 0.6
