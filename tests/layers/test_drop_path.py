"""DropPath: whole samples, expectation kept, nothing outside training."""

import keras
import numpy as np
import pytest
from reference import normal, to_numpy

from keras_cvt.layers import DropPath

pytestmark = pytest.mark.any_backend


def drop(rate, shape=(4000, 2, 3), seed=7):
    layer = DropPath(rate, seed=seed)
    return to_numpy(layer(np.ones(shape, "float32"), training=True))


def test_a_sample_is_dropped_whole_or_scaled_whole():
    samples = drop(0.25).reshape(4000, -1)
    assert np.all(samples == samples[:, :1])
    np.testing.assert_allclose(np.unique(samples), [0, 1 / 0.75], rtol=1e-6)


def test_the_rate_is_the_share_of_dropped_samples():
    # 0.03 are more than four standard deviations of 4000 draws.
    assert (drop(0.25)[:, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_the_expectation_is_preserved():
    assert drop(0.25).mean() == pytest.approx(1, abs=0.04)


def test_maps_of_four_axes_are_dropped_by_sample_too():
    samples = drop(0.5, (50, 2, 3, 4)).reshape(50, -1)
    assert np.all(samples == samples[:, :1])


def test_it_is_the_identity_at_inference():
    x = normal((8, 2, 3))
    np.testing.assert_array_equal(to_numpy(DropPath(0.9)(x)), x)


def test_it_is_the_identity_at_rate_0_in_training():
    x = normal((8, 2, 3))
    np.testing.assert_array_equal(to_numpy(DropPath(0.0)(x, training=True)), x)


def test_the_same_seed_drops_the_same_samples():
    np.testing.assert_array_equal(drop(0.5, seed=3), drop(0.5, seed=3))


def test_another_seed_drops_other_samples():
    assert np.any(drop(0.5, seed=3) != drop(0.5, seed=4))


def test_two_calls_draw_independently():
    layer = DropPath(0.5, seed=1)
    x = np.ones((4000, 1), "float32")
    kept = [to_numpy(layer(x, training=True))[:, 0] > 0 for _ in range(2)]
    assert np.mean(kept[0] & kept[1]) == pytest.approx(0.25, abs=0.03)


def test_a_seed_of_its_own_goes_on_where_it_was_left():
    layer = DropPath(0.5)  # as in a block
    x = np.ones((4000, 1), "float32")
    state = to_numpy(layer.seed_generator.state)
    first = to_numpy(layer(x, training=True))
    assert np.any(to_numpy(layer.seed_generator.state) != state)
    assert np.any(to_numpy(layer(x, training=True)) != first)
    layer.seed_generator.state.assign(state)
    np.testing.assert_array_equal(to_numpy(layer(x, training=True)), first)


def test_it_passes_a_mask_on():
    assert DropPath(0.1).supports_masking


def test_a_global_seed_makes_it_reproducible():
    def seeded():
        keras.utils.set_random_seed(5)
        return drop(0.5, seed=None)

    np.testing.assert_array_equal(seeded(), seeded())
