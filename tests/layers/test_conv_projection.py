"""ConvProjection: PyTorch's depthwise convolution, BatchNorm and average pooling."""

import itertools

import numpy as np
import pytest
from reference import normal, randomise, to_numpy, windows

from keras_cvt.layers import ConvProjection

pytestmark = pytest.mark.any_backend


def built(**arguments):
    layer = ConvProjection("dw_bn", **arguments)
    layer.build((None, None, None, 4))
    randomise(layer)
    return layer


def depthwise(layer, x):
    kernel = to_numpy(layer.conv.kernel)[..., 0]
    views = windows(x, layer.kernel_size, layer.stride, layer.padding)
    return np.einsum("bhwcij,ijc->bhwc", views, kernel)


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
@pytest.mark.parametrize("arguments", [(3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 2, 0)])
def test_depthwise_padding_is_symmetric(size, arguments):
    kernel_size, stride, padding = arguments
    layer = built(kernel_size=kernel_size, stride=stride, padding=padding)
    x = normal((2, *size, 4))
    gamma, beta, mean, variance = to_numpy(
        [
            layer.bn.gamma,
            layer.bn.beta,
            layer.bn.moving_mean,
            layer.bn.moving_variance,
        ]
    )
    expected = (depthwise(layer, x) - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    np.testing.assert_allclose(to_numpy(layer(x)), expected, rtol=0, atol=2e-5)


def test_batch_norm_keeps_nine_tenths_of_its_mean_per_step():
    layer = built(stride=2)
    layer.bn.moving_mean.assign(np.ones(4))
    x = normal((2, 6, 7, 4))
    layer(x, training=True)
    expected = 0.9 + 0.1 * depthwise(layer, x).mean((0, 1, 2))
    np.testing.assert_allclose(to_numpy(layer.bn.moving_mean), expected, atol=1e-6)


def test_batch_norm_has_epsilon_1e_5():
    layer = built(stride=2)
    layer.bn.set_weights([np.ones(4), np.zeros(4), np.zeros(4), np.zeros(4)])
    x = 1e-3 * normal((2, 6, 7, 4))
    expected = depthwise(layer, x) / np.sqrt(1e-5)
    np.testing.assert_allclose(to_numpy(layer(x)), expected, atol=1e-5)


def test_linear_is_the_identity():
    x = normal((2, 5, 6, 4))
    layer = ConvProjection("linear", 3, stride=2)
    np.testing.assert_array_equal(to_numpy(layer(x)), x)


POOLINGS = [
    (kernel_size, stride, padding)
    for kernel_size, stride in itertools.product(range(1, 6), range(1, 5))
    for padding in range(kernel_size // 2 + 1)
]


def pytorchs_pooling(x, pooling):
    """Return the result of PyTorch, or None if it raises an error."""
    torch = pytest.importorskip("torch")
    pool = torch.nn.AvgPool2d(*pooling, ceil_mode=True, count_include_pad=True)
    try:
        y = pool(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    except RuntimeError as error:
        assert "too small" in str(error)
        return None
    return y.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    "pooling", POOLINGS, ids=lambda p: "kernel{}_stride{}_padding{}".format(*p)
)
def test_average_pooling_equals_that_of_pytorch_in_ceil_mode(pooling):
    """Sizes from 1 to 9. The layer raises an error if PyTorch does."""
    layer = ConvProjection("avg", *pooling)
    for size in range(1, 6):
        x = normal((2, size, size + 4, 3))
        expected = pytorchs_pooling(x, pooling)
        if expected is None:
            for refuse in (layer.compute_output_shape, layer.build):
                with pytest.raises(
                    ValueError, match=r"at least \d positions.*Received"
                ):
                    refuse(x.shape)
            continue
        assert layer.compute_output_shape(x.shape) == expected.shape
        np.testing.assert_allclose(
            to_numpy(layer(x)), expected, rtol=0, atol=1e-6, err_msg=str(x.shape)
        )


@pytest.mark.parametrize("pooling", [(3, 10**9, 1), (1, 10**9, 0), (2, 7, 1)])
def test_average_pooling_with_a_huge_stride_needs_little_memory(pooling):
    # Padding by the stride would need exabytes.
    x = normal((1, 6, 8, 3))
    found = to_numpy(ConvProjection("avg", *pooling)(x))
    np.testing.assert_allclose(found, pytorchs_pooling(x, pooling), rtol=0, atol=1e-6)


@pytest.mark.parametrize("projection", ["avg", "dw_bn"])
def test_a_layer_that_was_built_refuses_a_map_that_is_too_small(projection):
    layer = ConvProjection(projection, 5, padding=1)
    layer(normal((1, 9, 9, 4)))
    with pytest.raises(ValueError, match="at least 3 positions|at least 3 pixels"):
        layer(normal((1, 9, 2, 4)))
