"""Fresh weights have the distributions of the official code."""

import keras
import numpy as np
import pytest
from reference import to_numpy

from keras_cvt import CvT, CvTConfig, StageConfig
from keras_cvt.layers import ClassToken, ConvEmbed, ConvProjection, ConvTransformerBlock

pytestmark = pytest.mark.any_backend

DIM = 96
LINEAR = [f"attn/{name}" for name in ("proj_q", "proj_k", "proj_v", "proj")]
LINEAR += ["mlp/fc1", "mlp/fc2"]


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def block(init="trunc_norm"):
    layer = ConvTransformerBlock(DIM, 2, init=init, name="block")
    layer.build((None, None, DIM))
    return {v.path.removeprefix("block/"): to_numpy(v) for v in layer.weights}


def assert_uniform_within(values, bound):
    assert np.abs(values).max() <= bound
    assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_linear_kernels_have_a_standard_deviation_of_0_02():
    values = block()
    stds = [values[f"{name}/kernel"].std() for name in LINEAR]
    assert stds == pytest.approx([0.02] * len(LINEAR), rel=0.05)


def test_linear_kernels_are_not_truncated_at_two_standard_deviations():
    kernel = block()["mlp/fc1/kernel"]
    assert (np.abs(kernel) > 0.04).mean() == pytest.approx(0.0455, abs=0.01)


def test_xavier_kernels_are_uniform_within_their_bound():
    kernel = block("xavier")["mlp/fc1/kernel"]
    assert_uniform_within(kernel, np.sqrt(6 / (DIM + 4 * DIM)))


@pytest.mark.parametrize("init", ["trunc_norm", "xavier"])
def test_linear_biases_are_0(init):
    values = block(init)
    assert all(np.all(values[f"{name}/bias"] == 0) for name in LINEAR)


def test_norms_start_as_the_identity():
    values = block()
    gammas = [value for path, value in values.items() if path.endswith("gamma")]
    betas = [value for path, value in values.items() if path.endswith("beta")]
    assert len(gammas) == len(betas) == 5
    assert np.all(np.stack(gammas) == 1) and np.all(np.stack(betas) == 0)


def test_convolutions_are_uniform_within_1_by_the_root_of_fan_in():
    layer = ConvEmbed(256, 3, 2, 1)
    layer.build((None, None, None, 8))
    bound = 1 / np.sqrt(3 * 3 * 8)
    assert_uniform_within(to_numpy(layer.proj.kernel), bound)
    assert np.abs(to_numpy(layer.proj.bias)).max() <= bound
    assert to_numpy(layer.proj.bias).std() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_a_depthwise_kernels_fan_in_is_its_area():
    layer = ConvProjection("dw_bn", 3)
    layer.build((None, None, None, 512))
    assert_uniform_within(to_numpy(layer.conv.kernel), 1 / 3)


def test_the_class_token_has_a_standard_deviation_of_0_02():
    layer = ClassToken()
    layer.build((None, None, 4096))
    assert to_numpy(layer.token).std() == pytest.approx(0.02, rel=0.05)


def test_the_head_starts_as_a_linear_layer():
    config = CvTConfig((StageConfig(8, 1, 2, 3, 2, 1),))
    kernel, bias = CvT(config, classes=1000).get_layer("head").weights
    assert to_numpy(kernel).std() == pytest.approx(0.02, rel=0.05)
    assert np.all(to_numpy(bias) == 0)
