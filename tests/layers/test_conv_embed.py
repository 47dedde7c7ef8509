"""ConvEmbed: symmetric padding, convolution, LayerNorm."""

import numpy as np
import pytest
from reference import layer_norm, normal, randomise, to_numpy, windows

from keras_cvt.layers import ConvEmbed

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("size", [(12, 16), (11, 13)])
@pytest.mark.parametrize("patch", [(7, 4, 2), (3, 2, 1)])
def test_padding_is_symmetric_and_layer_norm_has_epsilon_1e_5(size, patch):
    layer = ConvEmbed(6, *patch)
    layer.build((None, None, None, 3))
    randomise(layer)
    # Small values, so that epsilon counts.
    images = 1e-3 * normal((2, *size, 3))
    layer.proj.bias.assign(np.zeros(6))
    outputs = to_numpy(layer(images))
    kernel = to_numpy(layer.proj.kernel)
    expected = np.einsum("bhwcij,ijco->bhwo", windows(images, *patch), kernel)
    gamma, beta = to_numpy([layer.norm.gamma, layer.norm.beta])
    np.testing.assert_allclose(
        outputs, layer_norm(expected, gamma, beta), rtol=0, atol=1e-5
    )


def test_the_convolution_has_a_bias():
    layer = ConvEmbed(2, 3, 2, 1)
    layer.build((None, None, None, 3))
    layer.proj.bias.assign([1.0, 3.0])
    outputs = to_numpy(layer(np.zeros((1, 4, 4, 3))))
    np.testing.assert_allclose(outputs[0, 0, 0], [-1, 1], rtol=1e-4)


def test_another_number_of_channels_at_call_is_an_error():
    layer = ConvEmbed(8, 3, 2, 1)
    layer.build((None, None, None, 3))
    with pytest.raises(ValueError, match="expected axis -1"):
        layer(np.zeros((1, 8, 8, 4)))
