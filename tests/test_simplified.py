"""vit-pytorch's CvT, with its state dicts."""

import golden
import keras
import numpy as np
import pytest
import simplified

import keras_cvt
from keras_cvt import profile
from keras_cvt.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from keras_cvt.config import CvTConfig

any_backend = pytest.mark.any_backend
TINY = ["simplified_tiny", "simplified_tiny_odd_63x95"]


def build(meta, **arguments):
    return keras_cvt.CvTSimplified(
        classes=meta["num_classes"],
        classifier_activation=None,
        include_preprocessing=False,
        **meta["kwargs"],
        **arguments,
    )


def assert_equal_to_vit_pytorch(model, name):
    expected, meta = golden.load(name)
    logits = model.predict(golden.images(meta), verbose=0)
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=2e-5)


@any_backend
@pytest.mark.parametrize("rename", [dict, simplified.older_names], ids=["new", "old"])
@pytest.mark.parametrize("name", TINY)
def test_state_dicts_of_new_and_old_releases_give_the_same_logits(name, rename):
    _, meta = golden.load(name)
    model = build(meta)
    report = load_checkpoint(model, rename(simplified.state_dict(meta)))
    assert not report.missing and not report.unexpected
    assert_equal_to_vit_pytorch(model, name)


@any_backend
@pytest.mark.full_size
def test_the_defaults_are_those_of_vit_pytorch():
    _, meta = golden.load("simplified_default_224")
    model = build(meta)
    load_checkpoint(model, simplified.state_dict(meta))
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trainable == meta["parameters"] == 19_936_296
    assert_equal_to_vit_pytorch(model, "simplified_default_224")


@pytest.mark.parametrize("name", TINY)
def test_the_state_dict_of_the_tests_equals_that_of_the_golden_case(name):
    _, meta = golden.load(name)
    state = simplified.state_dict(meta)
    assert {key: list(a.shape) for key, a in state.items()} == meta["keys"]
    total = sum(np.abs(a.astype("float64")).sum() for a in state.values())
    assert total == pytest.approx(meta["weights_abs_sum"], rel=1e-6)


@any_backend
def test_a_saved_and_loaded_model_gives_the_same_logits(tmp_path):
    _, meta = golden.load("simplified_tiny")
    model = build(meta)
    load_checkpoint(model, simplified.state_dict(meta))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.cvt_config == model.cvt_config
    assert_equal_to_vit_pytorch(loaded, "simplified_tiny")


@pytest.mark.parametrize("file", ["x.safetensors", "x.weights.h5"])
def test_saved_weights_load_again(tmp_path, file):
    _, meta = golden.load("simplified_tiny")
    model = build(meta)
    load_checkpoint(model, simplified.state_dict(meta))
    if file.endswith(".h5"):
        model.save_weights(tmp_path / file)
    else:
        save_checkpoint(model, tmp_path / file)
    assert_equal_to_vit_pytorch(build(meta, weights=tmp_path / file), "simplified_tiny")


def test_a_backbone_knows_that_there_is_no_final_norm():
    _, meta = golden.load("simplified_tiny")
    backbone = build(meta, include_top=False)
    assert not backbone.cvt_config.final_norm
    clone = keras.models.clone_model(backbone)
    assert clone.cvt_config == backbone.cvt_config


def test_the_profile_has_the_number_of_parameters_of_the_model():
    _, meta = golden.load("simplified_tiny")
    model = build(meta)
    parts = profile.profile(model.cvt_config, 64, 64, classes=10)
    assert sum(part.parameters for part in parts) == meta["parameters"]
    assert sum(part.statistics for part in parts) == sum(
        int(np.prod(v.shape)) for v in model.variables if "moving_" in v.path
    )


def test_json_restores_the_configuration():
    config = build(golden.load("simplified_tiny")[1]).cvt_config
    assert CvTConfig.from_json(config.to_json()) == config


def test_transformers_cannot_express_the_configuration():
    config = build(golden.load("simplified_tiny")[1]).cvt_config
    with pytest.raises(ValueError, match="head_dim=64.*shared_kv=True.*final_norm"):
        config.to_transformers()


def test_dropout_does_not_act_after_the_embedding():
    config = keras_cvt.CvTSimplified(dropout=0.25, s3_depth=1).cvt_config
    assert {s.drop_rate for s in config.stages} == {0.25}
    assert {s.attention_drop_rate for s in config.stages} == {0.25}
    assert {s.embed_drop_rate for s in config.stages} == {0.0}


def test_a_checkpoint_with_a_final_norm_is_refused():
    _, meta = golden.load("simplified_tiny")
    state = simplified.state_dict(meta)
    model = build(meta)
    load_checkpoint(model, state)
    official = {**keras_cvt.checkpoints.layouts.to_official(state)[0]}
    official["norm.weight"] = np.ones(48, "float32")
    with pytest.raises(CheckpointError, match="unexpected: norm.weight"):
        load_checkpoint(model, official)


def test_an_unknown_argument_raises_an_error():
    with pytest.raises(ValueError, match="s4_depth"):
        keras_cvt.CvTSimplified(s4_depth=1)
    with pytest.raises(ValueError, match="num_classes"):
        keras_cvt.CvTSimplified(num_classes=3)
