"""The paper's numbers, and what fine-tuning changes in a model."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_cvt
from keras_cvt import StageConfig
from keras_cvt.training import (
    FINE_TUNING,
    PRETRAINING,
    Recipe,
    enable_lora,
    freeze_stages,
    layer_learning_rates,
)

any_backend = pytest.mark.any_backend

CONFIG = keras_cvt.CvTConfig(
    (StageConfig(8, 1, 1, 3, 2, 1), StageConfig(16, 2, 2, 3, 2, 1, cls_token=True))
)
IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype("float32")
LABELS = np.eye(3, dtype="float32")[[0, 1, 2, 0]]


@pytest.fixture
def model():
    return keras_cvt.CvT(CONFIG, classes=3, classifier_activation=None)


def rate(schedule, step):
    return float(ops.convert_to_numpy(schedule(step)))


@pytest.mark.parametrize("name", PRETRAINING)
def test_the_peak_is_0_002_at_the_papers_batch(name):
    assert PRETRAINING[name].peak_learning_rate(2048) == pytest.approx(0.002)


@any_backend
def test_the_learning_rate_warms_up_five_epochs_and_ends_at_the_floor():
    schedule = PRETRAINING["cvt13"].schedule(2048, steps_per_epoch=625)
    assert rate(schedule, 0) == pytest.approx(1e-6, rel=1e-3)
    assert rate(schedule, 5 * 625) == pytest.approx(0.002, rel=1e-4)
    middle = rate(schedule, 5 * 625 + 295 * 625 // 2)
    assert middle == pytest.approx((0.002 + 1e-5) / 2, rel=1e-2)
    assert rate(schedule, 300 * 625) == pytest.approx(1e-5, rel=1e-3)


def test_the_fine_tuning_lengths_are_the_papers():
    steps = {name: recipe.steps for name, recipe in FINE_TUNING.items()}
    expected = {"imagenet": 20_000, "cifar": 10_000, "pets": 500, "flowers": 500}
    # By epochs, and not the paper's.
    assert steps.pop("photos") is None
    assert steps == expected
    assert FINE_TUNING["pets"].total_epochs(steps_per_epoch=7) == 72


@pytest.mark.parametrize("recipe", [*PRETRAINING.values(), *FINE_TUNING.values()])
def test_a_recipe_survives_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam"},
        {"steps": 10},
        {"epochs": None},
        {"epochs": 0},
        {"label_smoothing": 1.0},
        {"weight_decay": -1.0},
        {"drop_path_rate": 1.0},
    ],
)
def test_a_recipe_with_a_wrong_field_is_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        Recipe(**options)


def test_a_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(ValueError, match="lower `warmup_epochs`"):
        Recipe(epochs=4).schedule(256, 10)


def test_a_recipe_may_leave_the_drop_path_to_the_model():
    recipe = Recipe(drop_path_rate=None)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@any_backend
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_the_loss_takes_what_the_head_gives(activation):
    model = keras_cvt.CvT(CONFIG, classes=3, classifier_activation=activation)
    Recipe(epochs=1, warmup_epochs=0).compile(model, 2048, steps_per_epoch=2)
    outputs = model.predict(IMAGES, verbose=0)
    if activation is None:
        outputs = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    smooth = 0.9 * LABELS + 0.1 / 3
    expected = -(smooth * np.log(outputs)).sum(-1).mean()
    assert model.evaluate(IMAGES, LABELS, verbose=0)[0] == pytest.approx(expected, 1e-4)


def test_a_model_without_a_head_is_not_compiled():
    model = keras_cvt.CvT(CONFIG, include_top=False, pooling="token")
    with pytest.raises(ValueError, match="classification head. Received: model="):
        Recipe(epochs=1, warmup_epochs=0).compile(model, 2048, steps_per_epoch=2)


def changed_by_training(model):
    Recipe(epochs=1, warmup_epochs=0).compile(model, 2048, steps_per_epoch=2)
    before = {v.path: ops.convert_to_numpy(v) for v in model.variables}
    model.train_on_batch(IMAGES, LABELS)
    return {
        v.path
        for v in model.variables
        if not np.array_equal(before[v.path], ops.convert_to_numpy(v))
    }


@any_backend
def test_a_frozen_stage_keeps_its_weights_and_its_statistics(model):
    freeze_stages(model, 1)
    changed = {path.split("/")[0] for path in changed_by_training(model)}
    assert changed == {"stage1", "norm", "head"}


@any_backend
def test_freezing_no_stage_unfreezes_all(model):
    freeze_stages(model, 2)
    freeze_stages(model, 0)
    assert any(path.startswith("stage0/") for path in changed_by_training(model))


def test_more_stages_than_there_are_cannot_be_frozen(model):
    with pytest.raises(ValueError, match="2 stages"):
        freeze_stages(model, 3)


@any_backend
def test_lora_trains_its_pairs_the_last_norm_and_the_head(model):
    expected = keras.ops.convert_to_numpy(model(IMAGES))
    count = enable_lora(model, 2)
    # Two targets a block: one block of width 8, two of 16; norm 2 x 16, head 51.
    assert count == 2 * (2 * 2 * 8) + 2 * 2 * (2 * 2 * 16) + 32 + 51
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model(IMAGES)), expected, atol=1e-5
    )
    leaves = {path.rpartition("/")[2] for path in changed_by_training(model)}
    assert leaves <= {
        "lora_kernel_a",
        "lora_kernel_b",
        "gamma",
        "beta",
        "kernel",
        "bias",
    }
    changed = {v.path for v in model.trainable_variables}
    assert all("lora_" in p or p.startswith(("norm/", "head/")) for p in changed)


def test_learning_rates_shrink_towards_the_image(model):
    multipliers = layer_learning_rates(model, 0.5)
    assert multipliers == {
        "stage0/": 0.125,
        "stage0/blocks/0/": 0.125,
        "stage1/": 0.25,
        "stage1/blocks/0/": 0.25,
        "stage1/blocks/1/": 0.5,
    }
    paths = [v.path for v in model.trainable_variables]
    assert all(any(path.startswith(prefix) for path in paths) for prefix in multipliers)
