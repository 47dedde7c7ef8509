"""ClassToken."""

import numpy as np
import pytest
from reference import normal, to_numpy

from keras_cvt.layers import ClassToken

pytestmark = pytest.mark.any_backend


def test_the_token_comes_first_and_is_the_same_for_every_image():
    layer = ClassToken()
    x = normal((3, 5, 8))
    outputs = to_numpy(layer(x))
    np.testing.assert_array_equal(outputs[:, 1:], x)
    token = np.broadcast_to(to_numpy(layer.token), (3, 1, 8))
    np.testing.assert_array_equal(outputs[:, :1], token)
