"""ConvTransformerStage: embedding, class token, blocks."""

import keras
import numpy as np
import pytest
from reference import normal, randomise, to_numpy

from keras_cvt.layers import ConvTransformerStage

pytestmark = pytest.mark.any_backend


def stage(depth=1, **arguments):
    return ConvTransformerStage(
        8, depth, 2, patch_size=3, patch_stride=2, patch_padding=1, **arguments
    )


@pytest.mark.parametrize(
    ("depth", "rates"), [(1, [0]), (2, [0, 0.3]), (4, [0, 0.1, 0.2, 0.3])]
)
def test_drop_path_rises_linearly_from_0_within_the_stage(depth, rates):
    blocks = stage(depth, drop_path_rate=0.3).blocks.blocks
    assert [block.drop_path.rate for block in blocks] == pytest.approx(rates)


def test_a_stage_is_its_embedding_followed_by_its_blocks():
    layer = stage(depth=2)
    x = normal((2, 7, 10, 3))
    layer.build(x.shape)
    randomise(layer)
    tokens = keras.ops.reshape(layer.patch_embed(x), (2, 4 * 5, 8))
    for block in layer.blocks.blocks:
        tokens = block(tokens, height=4, width=5)
    expected = to_numpy(tokens).reshape(2, 4, 5, 8)
    np.testing.assert_allclose(to_numpy(layer(x)), expected, atol=1e-6)


def test_a_stage_with_a_class_token_returns_the_map_and_the_token():
    layer = stage(cls_token=True)
    x = normal((2, 7, 10, 3))
    layer.build(x.shape)
    randomise(layer)
    tokens = keras.ops.reshape(layer.patch_embed(x), (2, 4 * 5, 8))
    tokens = layer.blocks.blocks[0](layer.cls_token(tokens), height=4, width=5)
    feature_map, token = to_numpy(layer(x))
    expected = to_numpy(tokens)
    np.testing.assert_allclose(token, expected[:, 0], atol=1e-6)
    np.testing.assert_allclose(
        feature_map.reshape(2, 20, 8), expected[:, 1:], atol=1e-6
    )


def test_dropout_after_the_embedding_includes_the_class_token():
    keras.utils.set_random_seed(0)
    layer = stage(cls_token=True, drop_rate=0.5)
    layer.build((None, None, None, 3))
    for block in layer.blocks.blocks:
        for variable in block.weights:  # A block of zeros is the identity.
            variable.assign(np.zeros(variable.shape))
    layer.cls_token.token.assign(np.ones((1, 1, 8)))
    _, token = layer(normal((2, 7, 10, 3)), training=True)
    np.testing.assert_allclose(np.unique(to_numpy(token)), [0, 2])


def test_paths_of_variables_are_like_the_official_keys():
    layer = stage(depth=2, cls_token=True, name="stage2")
    layer.build((None, None, None, 3))
    paths = {variable.path for variable in layer.weights}
    assert {
        "stage2/patch_embed/proj/kernel",
        "stage2/cls_token/token",
        "stage2/blocks/1/attn/conv_proj_q/bn/moving_mean",
        "stage2/blocks/1/mlp/fc2/bias",
    } <= paths


def test_one_graph_accepts_any_height_and_width():
    inputs = keras.Input((None, None, 3))
    layer = stage()
    model = keras.Model(inputs, layer(inputs))
    for size in [(8, 12), (7, 9)]:
        x = normal((2, *size, 3))
        outputs = model.predict(x, verbose=0)
        np.testing.assert_allclose(outputs, to_numpy(layer(x)), atol=1e-5)
