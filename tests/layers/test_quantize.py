"""Quantized networks: made from fresh ones, saved and loaded."""

import keras
import numpy as np
import pytest

import keras_cvt
from keras_cvt import CvTConfig, StageConfig

# Keras warns of each layer that has nothing to quantize.
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* `quantize` method")

CONFIG = CvTConfig(
    stages=(
        StageConfig(8, 1, 1, 7, 4, 2),
        StageConfig(16, 2, 2, 3, 2, 1, drop_path_rate=0.1, cls_token=True),
    )
)


def network():
    keras.utils.set_random_seed(0)
    return keras_cvt.CvT(CONFIG, classes=10, classifier_activation=None)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")


def test_a_model_that_was_never_called_can_be_quantized(images):
    model = network()
    model.quantize("int8")
    expected = network().predict(images, verbose=0)
    logits = model.predict(images, verbose=0)
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    assert np.any(logits != expected)


def test_a_quantized_model_survives_saving_more_than_once(tmp_path, images):
    model = network()
    model.quantize("int8")
    expected = model.predict(images, verbose=0)
    for name in ("once.keras", "twice.keras"):
        model.save(tmp_path / name)
        model = keras.models.load_model(tmp_path / name)
        assert str(model.stages[1].blocks.blocks[1].mlp.fc1.kernel.dtype) == "int8"
        np.testing.assert_allclose(
            model.predict(images, verbose=0), expected, rtol=0, atol=1e-6
        )
