"""DropPath: drops whole images, keeps the expectation, acts only in training."""

import keras
import numpy as np
import pytest
from reference import normal, to_numpy

from keras_cvt.layers import DropPath

pytestmark = pytest.mark.any_backend


def drop(rate, shape=(4000, 2, 3), seed=7):
    layer = DropPath(rate, seed=seed)
    return to_numpy(layer(np.ones(shape, "float32"), training=True))


def test_an_image_is_dropped_or_scaled_as_a_whole():
    samples = drop(0.25).reshape(4000, -1)
    assert np.all(samples == samples[:, :1])
    np.testing.assert_allclose(np.unique(samples), [0, 1 / 0.75], rtol=1e-6)


def test_the_rate_is_the_share_of_dropped_images():
    # 0.03 are more than four standard deviations of 4000 draws.
    assert (drop(0.25)[:, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_the_expectation_is_preserved():
    assert drop(0.25).mean() == pytest.approx(1, abs=0.04)


def test_an_image_is_dropped_as_a_whole_from_a_feature_map():
    samples = drop(0.5, (50, 2, 3, 4)).reshape(50, -1)
    assert np.all(samples == samples[:, :1])


def test_it_is_the_identity_at_inference():
    x = normal((8, 2, 3))
    np.testing.assert_array_equal(to_numpy(DropPath(0.9)(x)), x)


def test_it_is_the_identity_at_rate_0_in_training():
    x = normal((8, 2, 3))
    np.testing.assert_array_equal(to_numpy(DropPath(0.0)(x, training=True)), x)


def test_the_same_seed_drops_the_same_images():
    np.testing.assert_array_equal(drop(0.5, seed=3), drop(0.5, seed=3))


def test_another_seed_drops_other_images():
    assert np.any(drop(0.5, seed=3) != drop(0.5, seed=4))


def test_two_calls_are_independent():
    layer = DropPath(0.5, seed=1)
    x = np.ones((4000, 1), "float32")
    kept = [to_numpy(layer(x, training=True))[:, 0] > 0 for _ in range(2)]
    assert np.mean(kept[0] & kept[1]) == pytest.approx(0.25, abs=0.03)


def test_the_random_state_continues_from_a_restored_value():
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
