"""ConvAttention against numpy."""

import numpy as np
import pytest
from reference import normal, randomise, to_numpy

from keras_cvt.layers import ConvAttention

pytestmark = pytest.mark.any_backend

HEIGHT, WIDTH, CHANNELS = 5, 6, 16


def built(**arguments):
    layer = ConvAttention(CHANNELS, **arguments)
    layer.build((None, None, CHANNELS))
    randomise(layer)
    return layer


def linear(dense, x):
    kernel, *bias = to_numpy(dense.weights)
    return x @ kernel + (bias[0] if bias else 0)


def attend(layer, x, scale):
    token, tokens = (x[:, :1], x[:, 1:]) if layer.cls_token else (x[:, :0], x)
    feature_map = tokens.reshape(-1, HEIGHT, WIDTH, CHANNELS)
    heads = []
    for conv_proj, dense in (
        (layer.conv_proj_q, layer.proj_q),
        (layer.conv_proj_k, layer.proj_k),
        (layer.conv_proj_v, layer.proj_v),
    ):
        mixed = to_numpy(conv_proj(feature_map)).reshape(len(x), -1, CHANNELS)
        y = linear(dense, np.concatenate([token, mixed], axis=1))
        heads.append(np.split(y, layer.num_heads, axis=-1))
    outputs = []
    for q, k, v in zip(*heads, strict=True):
        scores = np.exp(scale * q @ k.transpose(0, 2, 1))
        outputs.append(scores / scores.sum(-1, keepdims=True) @ v)
    return linear(layer.proj, np.concatenate(outputs, axis=-1))


def assert_attends(layer, tokens):
    x = 0.5 * normal((2, tokens, CHANNELS))
    expected = attend(layer, x, CHANNELS**-0.5)
    outputs = to_numpy(layer(x, height=HEIGHT, width=WIDTH))
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_the_scale_does_not_depend_on_the_number_of_heads(num_heads):
    assert_attends(built(num_heads=num_heads, projection="linear"), HEIGHT * WIDTH)


@pytest.mark.parametrize("projection", ["dw_bn", "avg"])
def test_the_class_token_skips_the_convolution_but_not_the_linear_layer(projection):
    layer = built(num_heads=2, projection=projection, cls_token=True)
    assert_attends(layer, HEIGHT * WIDTH + 1)


def test_keys_and_values_may_have_another_stride_and_padding_than_the_query():
    layer = built(num_heads=2, kernel_size=5, padding_q=2, padding_kv=1, stride_kv=3)
    assert_attends(layer, HEIGHT * WIDTH)


def test_without_qkv_bias_only_the_last_linear_layer_has_one():
    layer = built(num_heads=2, qkv_bias=False)
    linears = (layer.proj_q, layer.proj_k, layer.proj_v, layer.proj)
    assert [dense.use_bias for dense in linears] == [False, False, False, True]


def test_with_average_pooling_the_query_is_not_pooled():
    layer = built(num_heads=2, projection="avg")
    x = normal((1, HEIGHT, WIDTH, CHANNELS))
    np.testing.assert_array_equal(to_numpy(layer.conv_proj_q(x)), x)


def test_dropout_of_weights_and_output_acts_only_in_training():
    layer = built(num_heads=1, drop_rate=0.5, attention_drop_rate=0.5)
    plain = built(num_heads=1)
    x = normal((2, HEIGHT * WIDTH, CHANNELS))
    size = {"height": HEIGHT, "width": WIDTH}
    np.testing.assert_array_equal(
        to_numpy(layer(x, **size)), to_numpy(plain(x, **size))
    )
    dropped = to_numpy(layer(x, **size, training=True))
    assert 0.4 < (dropped == 0).mean() < 0.6


@pytest.mark.parametrize(
    "shape", [(1, HEIGHT * WIDTH, CHANNELS + 1), (1, HEIGHT * WIDTH, 2 * CHANNELS)]
)
def test_a_wrong_number_of_channels_at_call_is_an_error(shape):
    layer = built(num_heads=2)
    with pytest.raises(ValueError, match="channels|axis -1"):
        layer(normal(shape), height=HEIGHT, width=WIDTH)


def test_a_wrong_number_of_tokens_is_an_error():
    layer = built(num_heads=2)
    with pytest.raises(ValueError, match="height \\* width tokens"):
        layer(normal((1, 2 * HEIGHT * WIDTH, CHANNELS)), height=HEIGHT, width=WIDTH)
