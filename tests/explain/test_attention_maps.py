"""`attention_maps` and `class_token_map`: weights, grids, rollout."""

import keras
import numpy as np
import pytest
from explain.small import STAGES, images, network
from reference import to_numpy

from keras_cvt import deploy
from keras_cvt.explain import attention_maps, class_token_map, geometry

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("name", STAGES)
def test_rows_sum_to_one_and_reproduce_the_output_of_the_attention(name):
    model = network(name)
    stage = model.stages[-1]
    attention = stage.blocks.blocks[-1].attn
    depth = stage.config.depth
    maps = attention_maps(model, images(), block=-1)
    np.testing.assert_allclose(maps.weights.sum(axis=-1), 1, atol=1e-5)

    # What the block read of: the input of its attention.
    before = f"{stage.name}/blocks/{depth - 2}" if depth > 1 else f"{stage.name}/embed"
    found = model.intermediates([before, f"{stage.name}/embed"])(images())
    height, width = maps.query_grid
    tokens = found[before]
    if depth == 1:
        tokens = stage.cls_token(keras.ops.reshape(tokens, (2, height * width, 8)))
    x = stage.blocks.blocks[-1].norm1(tokens)
    grid = {"height": height, "width": width}
    expected = to_numpy(attention(x, **grid))

    token, positions = to_numpy(x[:, :1]), to_numpy(x)
    if maps.cls_token:
        positions = positions[:, 1:]
    feature_map = positions.reshape(2, height, width, 8)
    projected = to_numpy(attention.conv_projections()[-1](feature_map))
    values = projected.reshape(2, -1, 8)
    if maps.cls_token:
        values = np.concatenate([token, values], axis=1)
    values = to_numpy(attention.proj_v(values)).reshape(2, -1, 2, 4)
    read = np.einsum("bnts,bsnd->btnd", maps.weights, values).reshape(2, -1, 8)
    np.testing.assert_allclose(to_numpy(attention.proj(read)), expected, atol=1e-4)


@pytest.mark.parametrize("name", STAGES)
def test_rows_and_columns_are_named(name):
    model = network(name)
    for maps in attention_maps(model, images()):
        assert maps.shape == (2, 2, len(maps.rows), len(maps.columns))
        assert np.asarray(maps).shape == maps.shape
        assert maps.query_grid == (5, 7)
        assert maps.rows[-1] == (4, 6)
        assert maps.columns[-1] == tuple(n - 1 for n in maps.key_grid)
        assert (maps.rows[0] == maps.columns[0] == "class token") == maps.cls_token
        positions = maps.of_positions
        assert positions.shape == (2, 2, 5, 7, *maps.key_grid)
        row, column = maps.rows.index((3, 2)), maps.columns.index((1, 2))
        assert (positions[:, :, 3, 2, 1, 2] == maps.weights[:, :, row, column]).all()
        if maps.cls_token:
            column = maps.columns.index((1, 0))
            assert (
                maps.of_class_token[:, :, 1, 0] == maps.weights[:, :, 0, column]
            ).all()
        else:
            with pytest.raises(ValueError, match="a stage with a class token"):
                maps.of_class_token  # noqa: B018


def test_stages_and_blocks_count_from_either_end():
    model = network()
    last = attention_maps(model, images())
    assert [maps.block for maps in last] == [0, 1, 2]
    assert {maps.stage for maps in last} == {1}
    one = attention_maps(model, images(), stage=1, block=-2)
    assert (one.stage, one.block) == (1, 1)
    np.testing.assert_allclose(one.weights, last[1].weights, atol=1e-6)
    (first,) = attention_maps(model, images(), stage=0)
    assert first.query_grid == (10, 14)


@pytest.mark.parametrize("name", [n for n in STAGES if n != "pooled"])
def test_the_rollout_is_the_product_of_whole_matrices(name):
    model = network(name)
    stage = model.stages[-1]
    maps = attention_maps(model, images())
    (height, width), (key_height, key_width) = maps[0].query_grid, maps[0].key_grid
    length = 1 + height * width
    keys = stage.blocks.blocks[0].attn.conv_projections()[-1]
    rows, columns = (geometry.key_shares(keys, size) for size in (height, width))
    # From keys to queries: what is read of a key is read of the positions around it.
    spread = np.zeros((1 + key_height * key_width, length))
    spread[0, 0] = 1
    spread[1:, 1:] = np.kron(rows, columns)
    embed = f"{stage.name}/embed"
    names = [f"{stage.name}/blocks/{i}" for i in range(stage.config.depth - 1)]
    found = model.intermediates([embed, *names])(images())
    tokens = keras.ops.reshape(found[embed], (2, height * width, 8))
    tokens = [stage.cls_token(tokens)] + [found[name] for name in names]
    rollout = np.eye(length)
    for block, weights, x in zip(stage.blocks.blocks, maps, tokens, strict=True):
        added = block.attn(block.norm1(x), height=height, width=width)
        kept, new = ((to_numpy(part) ** 2).sum(axis=-1) for part in (x, added))
        share = (kept / (kept + new))[:, :, None]
        read = weights.weights.mean(axis=1) @ spread
        rollout = (share * np.eye(length) + (1 - share) * read) @ rollout
    expected = rollout[:, 0, 1:] / rollout[:, 0, 1:].sum(axis=-1, keepdims=True)
    heat = class_token_map(model, images(), upsample=False)
    np.testing.assert_allclose(heat.reshape(2, -1), expected, atol=1e-5)
    enlarged = class_token_map(model, images())
    assert enlarged.shape == (2, 40, 56)
    # Token (1, 2) of the last stage is at the pixel (9, 17).
    np.testing.assert_allclose(enlarged[:, 9, 17], heat[:, 1, 2], rtol=1e-5)


def test_a_model_computes_the_same_after_it_was_explained():
    model = network()
    before, layers = to_numpy(model(images())), len(model.layers)
    class_token_map(model, images())
    attention_maps(model, images(), stage=0)
    np.testing.assert_array_equal(to_numpy(model(images())), before)
    assert len(model.layers) == layers
    # Its last block still computes only the class token.
    assert deploy.fuse(model).stages[-1].token_only
    pyramid = keras.Model(model.input, model.pyramid_outputs)
    assert sorted(pyramid(images())) == ["P2", "P3"]


def test_new_weights_give_new_maps():
    model = network()
    before = class_token_map(model, images())
    model.set_weights([2 * w for w in model.get_weights()])
    assert np.abs(class_token_map(model, images()) - before).max() > 1e-4


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_rows_sum_to_one_in_half_precision(policy):
    model = network(policy=policy)
    maps = attention_maps(model, images(), block=0)
    assert maps.weights.dtype == "float32"
    np.testing.assert_allclose(maps.weights.sum(axis=-1), 1, atol=1e-5)
    assert np.isfinite(class_token_map(model, images())).all()


def test_a_quantized_network_has_maps_close_to_its_own():
    model = network()
    expected = class_token_map(model, images())
    model.quantize("int8")
    found = class_token_map(model, images())
    assert 0 < np.abs(found - expected).max() < 0.1 * expected.max()


def test_bad_calls_say_what_was_expected():
    model = network()
    for call, message in (
        (lambda: attention_maps(model, images(), stage=2), "stage to be an integer"),
        (lambda: attention_maps(model, images(), block=3), "from -3 to 2"),
        (lambda: attention_maps(model, images(), block=True), "Received: block=True"),
        (lambda: attention_maps(model, images()[0]), r"images \(B, H, W, 3\)"),
        (lambda: attention_maps(model, images()[..., :1]), r"shape \(2, 40, 56, 1\)"),
        (lambda: attention_maps(model, "cat.jpg"), "Received: str"),
        (lambda: class_token_map(network("pooled"), images()), "has a class token"),
        (lambda: class_token_map(deploy.fuse(model), images()), "before .*fuse"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    fixed = network(input_shape=(40, 56, 3))
    with pytest.raises(ValueError, match=r"images \(B, 40, 56, 3\)"):
        class_token_map(fixed, images(height=48))
    with pytest.raises(TypeError, match="a network of keras_cvt"):
        class_token_map(keras.Sequential([keras.Input((40, 56, 3))]), images())


def test_layers_in_front_are_passed():
    inputs = keras.Input((None, None, 3))
    resized = keras.layers.Resizing(40, 56)(inputs)
    model = network(input_tensor=resized, input_shape=None)
    found = class_token_map(model, images(height=80, width=80))
    assert found.shape == (2, 80, 80)
    plain = network()
    plain.set_weights(model.get_weights())
    resized = to_numpy(keras.layers.Resizing(40, 56)(images(height=80, width=80)))
    expected = geometry.resize(class_token_map(plain, resized), 80, 80)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # A crop moves what the image shows.
    cropped = keras.layers.CenterCrop(40, 56)(inputs)
    model = network(input_tensor=cropped, input_shape=None)
    with pytest.raises(ValueError, match="stretch them.*CenterCrop"):
        class_token_map(model, images(height=80, width=80))
    grid = class_token_map(model, images(height=80, width=80), upsample=False)
    assert grid.shape == (2, 5, 7)


def test_a_model_that_was_compiled_with_a_loss_of_ones_own():
    model = network()
    model.compile("adam", loss=lambda y, p: keras.ops.mean(y - p))
    assert class_token_map(model, images()).shape == (2, 40, 56)
    assert deploy.fuse(model).stages[-1].fused


def test_attention_that_adds_nothing_is_a_map_of_zeros_and_a_warning():
    model = network()
    for block in model.stages[-1].blocks.blocks:
        block.attn.proj.set_weights([0 * w for w in block.attn.proj.get_weights()])
    with pytest.warns(UserWarning, match=r"reads nothing.*Images \[0, 1\]"):
        found = class_token_map(model, images())
    assert not found.any()
