import keras
import networks
import numpy as np
import pytest
from networks import CONFIGS

import keras_cvt
from keras_cvt.deploy import fuse
from keras_cvt.deploy.fused_layers import FusedStage

any_backend = pytest.mark.any_backend


def outputs(model, images):
    results = keras.tree.flatten(model(images, training=False))
    return [keras.ops.convert_to_numpy(result) for result in results]


def assert_same(model, fused, images):
    expected, found = outputs(model, images), outputs(fused, images)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


@any_backend
@pytest.mark.parametrize("name", CONFIGS)
def test_a_fused_classifier_computes_the_same_logits(name):
    model = networks.build(CONFIGS[name])
    fused = fuse(model)
    assert all(isinstance(stage, FusedStage) for stage in fused.stages)
    # Odd maps and even ones meet the strides differently.
    assert_same(model, fused, networks.images(2, 57, 70, 3))


@any_backend
@pytest.mark.parametrize("pooling", [None, "avg", "max", "token"])
@pytest.mark.parametrize("name", ["as published", "avg, class tokens everywhere"])
def test_a_fused_backbone_computes_the_same_features(name, pooling):
    model = networks.build(CONFIGS[name], include_top=False, pooling=pooling)
    assert_same(model, fuse(model), networks.images(2, 57, 70, 3))


@any_backend
def test_a_fused_pyramid_computes_the_same_maps():
    backbone = networks.build(CONFIGS["as published"], include_top=False)
    pyramid = keras.Model(backbone.input, backbone.pyramid_outputs)
    fused = fuse(pyramid)
    assert set(fused.output) == {"P2", "P3"}
    assert_same(pyramid, fused, networks.images(1, 64, 64, 3))


@any_backend
def test_a_model_around_a_cvt_is_fused_inside():
    backbone = networks.build(CONFIGS["as published"], include_top=False, pooling="avg")
    inputs = keras.Input((64, 64, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(backbone(255.0 - inputs)))
    assert_same(model, fuse(model), networks.images(2, 64, 64, 3))


@any_backend
def test_a_fused_model_saves_and_loads(tmp_path):
    fused = fuse(networks.build(CONFIGS["as published"]))
    fused.save(tmp_path / "fused.keras")
    loaded = keras.models.load_model(tmp_path / "fused.keras")
    images = networks.images(2, 57, 70, 3)
    np.testing.assert_array_equal(outputs(loaded, images), outputs(fused, images))
    assert loaded.cvt_config == fused.cvt_config
    assert loaded.eval_transform == fused.eval_transform


def test_only_the_class_token_is_computed_where_only_the_head_reads():
    config = CONFIGS["as published"]
    assert fuse(networks.build(config)).stages[-1].token_only
    backbone = networks.build(config, include_top=False)
    assert not fuse(backbone).stages[-1].token_only
    # Its map is not the last one.
    assert not fuse(networks.build(config)).stages[0].token_only


def test_fusing_does_not_change_the_model():
    model = networks.build(CONFIGS["as published"])
    before = model.get_weights()
    fused = fuse(model)
    for variable in fused.variables:
        variable.assign(np.zeros(variable.shape))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fused_stages_are_frozen_and_have_no_batch_norm():
    fused = fuse(networks.build(CONFIGS["as published"]))
    paths = [variable.path for variable in fused.variables]
    assert not [path for path in paths if "/bn/" in path or "/norm2/" in path]
    trained = {variable.path.split("/")[0] for variable in fused.trainable_variables}
    assert trained == {"norm", "head"}


@any_backend
def test_mixed_precision_stays_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = networks.build(CONFIGS["as published"])
    finally:
        keras.config.set_dtype_policy("float32")
    fused = fuse(model)
    assert fused.stages[0].dtype_policy.name == "mixed_bfloat16"
    images = networks.images(2, 64, 64, 3)
    (expected,), (found,) = outputs(model, images), outputs(fused, images)
    cosine = np.sum(expected * found) / np.linalg.norm(expected) / np.linalg.norm(found)
    assert cosine > 0.999


def test_a_fused_model_comes_back_as_it_is():
    fused = fuse(networks.build(CONFIGS["linear"]))
    assert fuse(fused) is fused


def test_a_fused_classifier_says_that_it_has_no_last_map():
    fused = fuse(networks.build(CONFIGS["as published"]))
    with pytest.raises(ValueError, match="fuse the pyramid itself"):
        fused.pyramid_outputs  # noqa: B018


def test_a_model_that_is_not_a_cvt_is_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="CvT stages. Received: model=<Functional"):
        fuse(keras.Model(inputs, keras.layers.Dense(2)(inputs)))
    with pytest.raises(ValueError, match="Expected a functional model"):
        fuse(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match="Expected a functional model"):
        fuse(keras_cvt.CvT)


def test_lora_and_quantized_weights_are_refused():
    model = networks.build(CONFIGS["as published"])
    model.stages[0].blocks.blocks[0].attn.proj_q.enable_lora(2)
    with pytest.raises(ValueError, match="lora_enabled=True"):
        fuse(model)
    model = networks.build(CONFIGS["as published"])
    model.quantize("int8")
    with pytest.raises(ValueError, match="quantization_mode='int8'"):
        fuse(model)
