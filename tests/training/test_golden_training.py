"""Training, step for step, against the official code in train mode."""

import json

import golden
import keras
import numpy as np
import pytest
from gradients import gradients

pytestmark = pytest.mark.any_backend

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def official():
    record = json.loads((golden.FOLDER / "train_tiny.json").read_text())
    return record | {"in_chans": record["input_shape_nhwc"][-1]}


def batch(official):
    images = golden.images(official)
    return images, np.arange(len(images)) % official["num_classes"]


def network(official):
    return golden.model(official, classifier_activation=None)


@pytest.fixture(scope="module")
def first_step(official):
    """Each variable's gradient and the statistics before and after one step."""
    model = network(official)
    before = statistics(model)
    steps = gradients(model, LOSS, *batch(official))
    keys = {v.path: golden.official_key(v) for v in model.trainable_variables}
    norms = {keys[path]: np.linalg.norm(step) for path, step in steps.items()}
    return norms, before, statistics(model)


def statistics(model):
    return {
        golden.official_key(v): keras.ops.convert_to_numpy(v)
        for v in model.non_trainable_variables
        if "moving" in v.path
    }


def test_ten_steps_of_sgd_lose_what_the_official_code_loses(official):
    assert_losses(
        official,
        keras.optimizers.SGD(official["sgd"]["lr"], official["sgd"]["momentum"]),
        official["losses_sgd"],
    )


def test_ten_steps_of_adamw_lose_what_the_official_code_loses(official):
    options = official["adamw"]
    beta_1, beta_2 = options["betas"]
    assert_losses(
        official,
        keras.optimizers.AdamW(
            options["lr"], options["weight_decay"], beta_1, beta_2, options["eps"]
        ),
        official["losses_adamw"],
    )


def assert_losses(official, optimizer, expected):
    model = network(official)
    model.compile(optimizer, LOSS)
    images, labels = batch(official)
    losses = []
    for _ in expected:
        # Keras 3.13 gives the mean over the calls since then.
        model.reset_metrics()
        losses.append(float(model.train_on_batch(images, labels)))
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


def test_every_gradient_has_the_official_norm(official, first_step):
    norms, _, _ = first_step
    assert norms.keys() == official["grad_norm"].keys()
    for key, expected in official["grad_norm"].items():
        # Shifts of every key change no softmax: their gradients are rounding noise.
        np.testing.assert_allclose(
            norms[key], expected, rtol=1e-3, atol=1e-6, err_msg=key
        )


def test_the_query_convolution_that_no_one_reads_gets_no_gradient(first_step):
    # The head sees the last block's class token only, which skips the convolution.
    norms, _, _ = first_step
    unseen = [key for key, norm in norms.items() if norm == 0]
    assert sorted(unseen) == [
        "stage2.blocks.2.attn.conv_proj_q.bn.bias",
        "stage2.blocks.2.attn.conv_proj_q.bn.weight",
        "stage2.blocks.2.attn.conv_proj_q.conv.weight",
    ]


def test_running_means_move_as_officially(official, first_step):
    _, _, after = first_step
    for key, (mean, std) in official["running_after_1"].items():
        if key.endswith("running_mean"):
            assert_moments(after[key], mean, std, key)


def test_running_variances_move_as_officially_but_for_bessels_correction(
    official, first_step
):
    # PyTorch moves towards the unbiased variance of the batch's n positions, Keras
    # towards the biased one: Keras's step is smaller by the factor (n - 1) / n.
    _, before, after = first_step
    sides = dict(zip(("stage0", "stage1", "stage2"), (16, 8, 4), strict=True))
    for key, (mean, std) in official["running_after_1"].items():
        if not key.endswith("running_var"):
            continue
        side = sides[key.split(".")[0]] // (1 if "conv_proj_q" in key else 2)
        n = official["input_shape_nhwc"][0] * side**2
        kept = np.float32(0.9) * before[key]
        unbiased = kept + (after[key] - kept) * n / (n - 1)
        assert_moments(unbiased, mean, std, key)
        # So the two differ by at most 1 / n, 3 % in the smallest map here.
        assert 0 <= mean - after[key].mean() <= mean / n


def assert_moments(values, mean, std, key):
    found = [values.mean(), values.std(ddof=1)]
    np.testing.assert_allclose(found, [mean, std], rtol=1e-5, atol=1e-6, err_msg=key)
