"""ConvTransformerBlock: pre-norm, residuals, drop path."""

import keras
import numpy as np
import pytest
from reference import layer_norm, normal, randomise, to_numpy

from keras_cvt.layers import ConvTransformerBlock

pytestmark = pytest.mark.any_backend

SIZE = {"height": 2, "width": 3}


def built(**arguments):
    block = ConvTransformerBlock(8, 2, mlp_ratio=2, projection="linear", **arguments)
    block.build((None, None, 8))
    randomise(block)
    return block


def norm(layer, x):
    return layer_norm(x, *to_numpy(layer.weights))


def attention_branch(block, x):
    return to_numpy(block.attn(norm(block.norm1, x), **SIZE))


def mlp_branch(block, x):
    return to_numpy(block.mlp(norm(block.norm2, x)))


def test_each_branch_is_normalised_first_and_added_to_its_input():
    block = built()
    x = normal((2, 6, 8))
    expected = x + attention_branch(block, x)
    expected = expected + mlp_branch(block, expected)
    np.testing.assert_allclose(to_numpy(block(x, **SIZE)), expected, rtol=0, atol=1e-5)


def test_both_residuals_include_the_class_token():
    block = built(cls_token=True)
    x = normal((2, 7, 8))
    expected = x + attention_branch(block, x)
    expected = expected + mlp_branch(block, expected)
    np.testing.assert_allclose(to_numpy(block(x, **SIZE)), expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def dropped():
    """Inputs, outputs, and a mask of the images for each of the four outcomes."""
    keras.utils.set_random_seed(0)
    block = built(drop_path_rate=0.5)
    x = normal((64, 6, 8))
    outputs = to_numpy(block(x, **SIZE, training=True))
    with_attention = x + 2 * attention_branch(block, x)
    outcomes = {
        "neither": x,
        "attention": with_attention,
        "mlp": x + 2 * mlp_branch(block, x),
        "both": with_attention + 2 * mlp_branch(block, with_attention),
    }
    kept = {
        name: np.abs(outputs - outcome).max((1, 2)) < 1e-4
        for name, outcome in outcomes.items()
    }
    return x, outputs, kept


def test_each_branch_is_kept_or_dropped_for_a_whole_image(dropped):
    *_, kept = dropped
    assert np.all(sum(mask.astype(int) for mask in kept.values()) == 1)


def test_the_two_branches_are_dropped_independently(dropped):
    *_, kept = dropped
    assert all(5 <= mask.sum() <= 30 for mask in kept.values())


def test_an_image_with_both_branches_dropped_keeps_its_values_exactly(dropped):
    x, outputs, kept = dropped
    np.testing.assert_array_equal(outputs[kept["neither"]], x[kept["neither"]])


def test_layer_norm_keeps_float32_weights_under_mixed_precision():
    block = ConvTransformerBlock(8, 2, dtype="mixed_float16")
    block.build((None, None, 8))
    norms = [*block.norm1.weights, *block.norm2.weights]
    assert {variable.dtype for variable in norms} == {"float32"}


def test_layer_norm_of_large_activations_is_finite_in_float16():
    block = built(dtype="mixed_float16")
    # The sum of squares is beyond float16, the values are not.
    x = 1000 * normal((2, 6, 8))
    assert np.all(np.isfinite(to_numpy(block(x, **SIZE))))


def test_build_builds_the_drop_path_layer():
    assert built(drop_path_rate=0.1).drop_path.built
