"""`grad_cam`: gradients of the score, for every kind of head."""

import keras
import numpy as np
import pytest
from explain.small import STAGES, images, network
from reference import to_numpy

from keras_cvt import CvTModel, deploy
from keras_cvt.explain import grad_cam

pytestmark = pytest.mark.any_backend


def logits_from_tokens(model, stage, tokens, first):
    """Run the blocks from `first` on and the rest of a network, layer by layer."""
    for block in stage.blocks.blocks[first:]:
        tokens = block(tokens, height=5, width=7)
    outputs = stage.as_outputs(tokens, 5, 7)
    names = [layer.name for layer in model.layers]
    x = outputs[1] if stage.config.cls_token else outputs
    for layer in model.layers[names.index(stage.name) + 1 :]:
        x = layer(x)
    return to_numpy(x)


def slopes(model, stage, tokens, directions, first):
    """Return numerical derivatives (K, 4) of the logits in K directions (K, T, C)."""
    step = 1e-2
    up, down = (
        logits_from_tokens(model, stage, tokens + sign * step * directions, first)
        for sign in (1, -1)
    )
    return (up - down) / (2 * step)


def evidence(model, stage, tokens, first, pool_gradients):
    """Return (4, T): for each class the sum of channels times gradients."""
    own = slice(int(stage.config.cls_token), None)
    positions, channels = tokens[own].shape
    if pool_gradients:
        # The mean of a channel's gradients: all positions move alike.
        directions = np.zeros((channels, *tokens.shape), "float32")
        for channel in range(channels):
            directions[channel, own, channel] = 1
        found = slopes(model, stage, tokens, directions, first) / positions
        return (tokens[own] @ found).T
    # Each position moves along its difference from the mean.
    differences = tokens[own] - tokens[own].mean(axis=0)
    directions = np.zeros((positions, *tokens.shape), "float32")
    for position in range(positions):
        directions[position, own][position] = differences[position]
    return slopes(model, stage, tokens, directions, first).T


@pytest.mark.parametrize("pool_gradients", [False, True])
@pytest.mark.parametrize("name", STAGES)
def test_the_map_is_that_of_numerical_gradients(name, pool_gradients):
    model = network(name, classifier_activation=None)
    stage = model.stages[-1]
    # With a class token, the last block reads what is looked at.
    first = stage.config.depth - stage.config.cls_token
    embed = f"{stage.name}/embed"
    names = [embed] + [f"{stage.name}/blocks/{first - 1}"] * (first > 0)
    image = images(1)
    tokens = to_numpy(model.intermediates(names)(image))[names[-1]]
    if first == 0:
        tokens = to_numpy(stage.cls_token(tokens.reshape(1, 35, 8)))
    found = np.maximum(evidence(model, stage, tokens[0], first, pool_gradients), 0)
    largest = found.max(axis=1, keepdims=True)
    assert (largest > 0).any()
    for class_index in np.flatnonzero(largest):
        expected = found[class_index] / largest[class_index]
        options = {"class_index": class_index, "pool_gradients": pool_gradients}
        cam = grad_cam(model, image, upsample=False, **options)
        np.testing.assert_allclose(cam.ravel(), expected, atol=0.02)
        enlarged = grad_cam(model, image, **options)
        assert (enlarged.shape, enlarged.dtype) == ((1, 40, 56), "float32")
        # Token (1, 2) of the last stage is at the pixel (9, 17).
        np.testing.assert_allclose(enlarged[0, 9, 17], cam[0, 1, 2], atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_activation_of_the_head_does_not_matter(activation):
    linear = network(classifier_activation=None)
    model = network(classifier_activation=activation)
    expected = grad_cam(linear, images(), 2)
    np.testing.assert_allclose(grad_cam(model, images(), 2), expected, atol=1e-5)


def test_without_a_class_it_explains_the_best():
    model = network()
    best = to_numpy(model(images())).argmax(axis=-1)
    np.testing.assert_array_equal(
        grad_cam(model, images()), grad_cam(model, images(), best)
    )
    one = network(classes=1, classifier_activation="sigmoid")
    np.testing.assert_array_equal(grad_cam(one, images()), grad_cam(one, images(), 0))


def test_an_earlier_stage_has_a_finer_map():
    cam = grad_cam(network(), images(), stage=0, upsample=False)
    assert cam.shape == (2, 10, 14)


def test_a_head_that_learned_gives_another_map():
    model = network()
    grad_cam(model, images(), 0)
    head = model.get_layer("head")
    kernel, bias = head.get_weights()
    head.set_weights([np.roll(kernel, 1, axis=1), bias])
    moved = grad_cam(model, images(), 1)
    head.set_weights([kernel, bias])
    np.testing.assert_allclose(moved, grad_cam(model, images(), 0), atol=1e-6)


def test_a_head_that_changed_its_kind_gives_its_own_map():
    model = network(classifier_activation="softmax")
    expected = grad_cam(model, images(), 1)
    head = model.get_layer("head")
    head.activation = keras.activations.linear
    np.testing.assert_allclose(grad_cam(model, images(), 1), expected, atol=1e-5)
    head.set_weights([np.roll(w, 1, axis=-1) for w in head.get_weights()])
    np.testing.assert_allclose(grad_cam(model, images(), 2), expected, atol=1e-5)
    head.enable_lora(2)
    np.testing.assert_allclose(grad_cam(model, images(), 2), expected, atol=1e-5)


def test_small_gradients_count_in_float16():
    model, half = network(), network(policy="mixed_float16")
    for each in (model, half):
        head = each.get_layer("head")
        head.set_weights([1e-6 * w for w in head.get_weights()])
    expected = grad_cam(model, images(), 1)
    found = grad_cam(half, images(), 1)
    correlation = np.corrcoef(expected.ravel(), found.ravel())[0, 1]
    assert correlation > 0.99


def test_quantized_and_half_precision_networks_have_close_maps():
    model = network()
    expected = grad_cam(model, images(), 1)
    half = network(policy="mixed_bfloat16")
    assert np.abs(grad_cam(half, images(), 1) - expected).mean() < 0.05
    assert expected.mean() > 0.1
    model.quantize("int8")
    assert np.abs(grad_cam(model, images(), 1) - expected).mean() < 0.05


def test_no_evidence_is_a_map_of_zeros_and_a_warning():
    model = network()
    head = model.get_layer("head")
    head.set_weights([0 * w for w in head.get_weights()])
    with pytest.warns(UserWarning, match=r"Images \[0, 1\], classes \[2, 2\]"):
        cam = grad_cam(model, images(), 2)
    assert not cam.any()


@pytest.mark.parametrize(
    "class_index", [4, -1, 1.5, "cat", [0, 1, 2], [[0, 1]], [0, 4], True]
)
def test_a_class_that_is_not_there_is_refused(class_index):
    with pytest.raises(ValueError, match=r"`class_index` of 0 to 3.*Received"):
        grad_cam(network(), images(), class_index)


def test_bad_calls_say_what_was_expected():
    model = network()
    regression = network(classifier_activation=None)
    regression.output_kind = "regression"
    for call, message in (
        (lambda: grad_cam(deploy.fuse(model), images()), "before .*fuse"),
        (lambda: grad_cam(network(include_top=False), images()), "with a head"),
        (lambda: grad_cam(regression, images()), "not scores of classes"),
        (lambda: grad_cam(model, images(), stage=-3), "from -2 to 1"),
        (lambda: grad_cam(model, images()[0]), r"images \(B, H, W, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_later_layers_that_read_an_earlier_stage_are_named():
    body = network(include_top=False, pooling="token")
    pool = keras.layers.GlobalAveragePooling2D()
    joined = keras.layers.Concatenate()([body.output, pool(body.pyramid_outputs["P2"])])
    model = CvTModel(body.input, keras.layers.Dense(4)(joined))
    with pytest.raises(ValueError, match="depend on the images through 'stage1' alone"):
        grad_cam(model, images(), 0)
