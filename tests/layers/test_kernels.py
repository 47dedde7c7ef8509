"""Each backend's own form of an operation computes what Keras's layers compute."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from reference import normal, randomise, to_numpy

from keras_cvt._utils import backend_operations
from keras_cvt.layers import (
    MLP,
    ConvAttention,
    ConvProjection,
    ConvTransformerBlock,
    kernels,
)
from keras_cvt.layers.norms import BatchNorm
from keras_cvt.layers.padding import pad_map

pytestmark = pytest.mark.any_backend


def built(layer, shape):
    layer.build(shape)
    randomise(layer)
    return layer


def assert_close(found, expected, atol=1e-5):
    np.testing.assert_allclose(to_numpy(found), to_numpy(expected), rtol=0, atol=atol)


@pytest.mark.parametrize("size", [(7, 7), (9, 6)])
@pytest.mark.parametrize("kernel_size, stride, padding", [
    (3, 1, 1), (3, 2, 1), (3, 3, 0), (5, 2, 2), (1, 1, 0), (2, 2, 1),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["DepthwiseConv2D", "Conv2D"])
def test_a_convolution_pads_with_zeros_on_every_side(
    kind, kernel_size, stride, padding, size
):
    filters = (5,) if kind == "Conv2D" else ()
    layer = getattr(layers, kind)(*filters, kernel_size, strides=stride)
    x = normal((2, *size, 4))
    layer = built(layer, x.shape)
    expected = layer(pad_map(ops.convert_to_tensor(x), padding))
    assert_close(kernels.conv(layer, ops.convert_to_tensor(x), padding), expected)


@pytest.mark.parametrize("training", [False, True])
def test_a_convolution_and_its_norm(training):
    x = ops.convert_to_tensor(normal((4, 6, 6, 8)))
    conv = built(layers.DepthwiseConv2D(3, strides=2, use_bias=False), x.shape)
    ours, theirs = (built(BatchNorm(), x.shape) for _ in range(2))
    found = kernels.conv_norm(conv, ours, x, 1, training)
    keras_layer = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    keras_layer.build(x.shape)
    keras_layer.set_weights(theirs.get_weights())
    assert_close(found, keras_layer(conv(pad_map(x, 1)), training=training))
    for mine, other in zip(ours.variables, keras_layer.variables, strict=True):
        assert_close(mine, other)


@pytest.mark.parametrize("lora", [False, True])
def test_a_product_and_its_bias(lora):
    x = ops.convert_to_tensor(normal((6, 8)))
    layer = built(layers.Dense(5), x.shape)
    if lora:
        layer.enable_lora(2)
        randomise(layer)
    assert_close(kernels.linear(layer, x), layer(x))
    if kernels.scales_products(False, layer):
        bias = ops.convert_to_tensor(layer.bias)
        expected = 3 * (layer(x) - bias) + 2 * bias
        assert_close(kernels.linear(layer, x, alpha=3.0, beta=2.0), expected)


@pytest.mark.parametrize("num_heads", [1, 3])
def test_attention_as_one_operation(num_heads):
    q, k, v = (
        ops.convert_to_tensor(normal((2, n, num_heads, 4), seed=n)) for n in (7, 5, 5)
    )
    found = kernels.attention(q, k, v, 0.3, False)
    if found is None:
        found = ops.dot_product_attention(q, k, v, scale=0.3)
    layer = ConvAttention(4 * num_heads, num_heads)
    layer.score_scale = lambda: 0.3
    expected, _ = layer._attend(*map(layer._by_head, (q, k, v)))
    assert_close(found, ops.reshape(expected, found.shape))


def test_dropout_of_attention_weights_happens_in_training_only():
    x = normal((2, 16, 8))
    layer = built(ConvAttention(8, 2, attention_drop_rate=0.5), x.shape)
    plain = ConvAttention(8, 2)
    plain.build(x.shape)
    # The layer with dropout has a seed as well.
    plain.set_weights([v.numpy() if hasattr(v, "numpy") else v for v in layer.weights])
    size = {"height": 4, "width": 4}
    assert_close(layer(x, **size, training=False), plain(x, **size, training=False))
    dropped = to_numpy(layer(x, **size, training=True))
    kept = to_numpy(plain(x, **size, training=True))
    assert np.abs(dropped - kept).max() > 1e-3


@pytest.mark.parametrize("units", [3, 20])
def test_a_product_with_factors(units):
    x, kernel, bias = normal((6, 8)), normal((8, units), seed=1), normal(units, seed=2)
    tensors = map(ops.convert_to_tensor, (x, kernel, bias))
    found = backend_operations.scaled_linear(*tensors, 1.7, 0.5)
    assert_close(found, 1.7 * (x @ kernel) + 0.5 * bias)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_layer_norm(dtype):
    layer = built(layers.LayerNormalization(epsilon=1e-5, dtype=dtype), (None, 8))
    x = ops.cast(ops.convert_to_tensor(100 + normal((2, 3, 8))), layer.compute_dtype)
    found = kernels.layer_norm(layer, x)
    if found is not None:
        assert found.dtype == layer(x).dtype
        found, expected = (ops.cast(y, "float32") for y in (found, layer(x)))
        assert_close(found, expected, atol=1e-4 if dtype == "float32" else 0.05)


@pytest.mark.parametrize("training", [False, True])
def test_a_convolution_and_its_norm_in_bfloat16(training):
    x = normal((4, 6, 6, 8))
    results = []
    for dtype in ("float32", "mixed_bfloat16"):
        layer = built(ConvProjection(dtype=dtype), x.shape)
        tensor = ops.cast(ops.convert_to_tensor(x), layer.compute_dtype)
        y = layer(tensor, training=training)
        assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
        results.append(ops.cast(y, "float32"))
    assert_close(*results, atol=0.1)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only for JAX")
def test_attention_image_by_image():
    q, k, v = (normal((2, n, 3, 4), seed=n) for n in (7, 5, 5))
    found = backend_operations.jax_attention(*map(ops.convert_to_tensor, (q, k, v)), 2)
    expected = ops.dot_product_attention(q, k, v, scale=2.0)
    assert_close(found, expected)
    tokens = np.zeros((1, 3136, 1, 64), "float32")
    assert backend_operations.image_by_image(tokens, 784, False)
    assert not backend_operations.image_by_image(tokens, 784, True)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only for PyTorch")
def test_hooks_of_a_blocks_layers_are_called():
    block = built(ConvTransformerBlock(8, 2), (None, None, 8))
    seen = []
    for layer in (block.norm1, block.attn, block.attn.conv_proj_k, block.mlp):
        layer.register_forward_hook(lambda layer, *_: seen.append(layer.name))
    block(ops.ones((1, 16, 8)), height=4, width=4)
    assert seen == ["norm1", block.attn.conv_proj_k.name, "attn", "mlp"]


def test_an_activity_regularizer_of_a_sublayer_counts():
    block = built(ConvTransformerBlock(8, 2), (None, None, 8))
    block.mlp.activity_regularizer = keras.regularizers.L2(0.1)
    block(ops.ones((1, 16, 8)), height=4, width=4)
    assert len(block.losses) == 1


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow")
def test_an_mlp_in_float16_keeps_large_outputs_in_evaluation():
    layer = MLP(8, dtype="mixed_float16")
    layer.build((None, 4, 8))
    layer.fc2.bias.assign(ops.full((8,), 5e4))
    assert np.isfinite(to_numpy(layer(ops.ones((1, 4, 8)), training=False))).all()
