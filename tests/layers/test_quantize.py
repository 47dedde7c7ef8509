"""Quantized networks can be saved and loaded."""

import keras
import numpy as np
import pytest
from reference import to_numpy

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


def test_a_model_can_be_quantized_before_its_first_call(images):
    model = network()
    model.quantize("int8")
    expected = to_numpy(network()(images))
    logits = model.predict(images, verbose=0)
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    assert np.any(logits != expected)


def test_a_quantized_model_can_be_saved_and_loaded_twice(tmp_path, images):
    model = network()
    model.quantize("int8")
    expected = to_numpy(model(images))
    for name in ("once.keras", "twice.keras"):
        model.save(tmp_path / name)
        model = keras.models.load_model(tmp_path / name)
        assert str(model.stages[1].blocks.blocks[1].mlp.fc1.kernel.dtype) == "int8"
        np.testing.assert_allclose(to_numpy(model(images)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: keras_cvt.layers.MLP(8),
        lambda: keras_cvt.layers.ConvAttention(8, 2, cls_token=True),
        lambda: keras_cvt.layers.ConvTransformerBlock(8, 2, cls_token=True),
    ],
    ids=["MLP", "ConvAttention", "ConvTransformerBlock"],
)
@pytest.mark.parametrize("everything", [True, False])
def test_a_quantized_layer_outside_a_stage_can_be_saved_and_loaded(
    tmp_path, layer, everything
):
    keras.utils.set_random_seed(0)
    layer = layer()
    inputs = keras.Input((17, 8))
    place = {} if isinstance(layer, keras_cvt.layers.MLP) else {"height": 4, "width": 4}
    model = keras.Model(inputs, layer(inputs, **place))
    if everything:
        model.quantize("int8")
    else:
        # Only the last, because each layer has a policy of its own.
        layer.linear_layers()[-1].quantize("int8")
    tokens = np.random.default_rng(0).normal(size=(2, 17, 8)).astype("float32")
    expected = to_numpy(model(tokens))
    for name in ("once.keras", "twice.keras"):
        model.save(tmp_path / name)
        model = keras.models.load_model(tmp_path / name)
        modes = [x.quantization_mode for x in model.layers[1].linear_layers()]
        assert modes[-1] == "int8"
        assert set(modes[:-1]) == {"int8" if everything else None}
        np.testing.assert_allclose(to_numpy(model(tokens)), expected, rtol=0, atol=1e-6)
