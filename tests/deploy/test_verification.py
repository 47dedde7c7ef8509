"""Which files pass: what counts as the same answer, and what a failure advises."""

import keras
import networks
import numpy as np
import pytest

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, deploy
from keras_cvt.deploy.file_format import Runtime
from keras_cvt.deploy.verification import compare

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)
RNG = np.random.default_rng(0)
# Two classes that are equal but for a thousandth of the scores' size.
TIES = np.linspace(-1, 1, 10)[None] + RNG.normal(0, 1e-3, (64, 10))
TIES[:, -2] += TIES[0, -1] - TIES[0, -2]
# Less than the formats may change.
ROUNDED = TIES + RNG.normal(0, 1e-2, TIES.shape)
# One class for each image, far from the next one.
SURE = 8 * np.eye(10)[np.arange(64) % 10] + RNG.normal(0, 1, (64, 10))
EIGHT_BITS = ("dynamic_int8", "int8")
LOGIT = {"outputs": "logits", "activation": "linear"}


@pytest.fixture(autouse=True)
def no_timing(monkeypatch):
    monkeypatch.setattr(deploy.verification, "_seconds", lambda run: 1.0)


def verdict(expected, found, quantization=None, **described):
    """Return how outputs compare that are given as arrays."""
    return compare(
        keras.Sequential([keras.layers.Flatten()]),
        [np.asarray(expected)],
        np.zeros((len(expected), 4, 4, 3), "float32"),
        "file",
        Runtime("keras", len(expected), lambda images: [np.asarray(found)]),
        {"outputs": "logits", "quantization": quantization, **described},
        0,
    )


@pytest.mark.parametrize("quantization", EIGHT_BITS)
def test_near_ties_that_change_places_do_not_fail_a_file(quantization):
    result = verdict(TIES, ROUNDED, quantization)
    assert result.top1_agreement < 0.9 and result.decided == 0
    assert result.decided_agreement is None
    assert result.passed, result
    assert "error of undecided scores" in result.tolerance


@pytest.mark.parametrize("quantization", EIGHT_BITS)
@pytest.mark.parametrize(
    "found",
    [TIES * 0.5, TIES[:, ::-1], TIES + RNG.normal(0, 0.2, TIES.shape), TIES * np.nan],
    ids=["halved", "turned round", "noise", "NaN"],
)
def test_scores_that_differ_fail_a_file_of_an_undecided_network(quantization, found):
    result = verdict(TIES, found, quantization)
    assert result.decided == 0 and not result.passed


def test_an_error_of_the_allowed_size_decides():
    size = np.sqrt(np.mean(TIES**2))
    noise = np.where(RNG.random(TIES.shape) < 0.5, -1.0, 1.0)
    noise -= noise.mean(-1, keepdims=True)
    noise *= size / np.sqrt(np.mean(noise**2))
    for quantization, limit in (("dynamic_int8", 0.10), ("int8", 0.15)):
        for share, passed in ((0.97, True), (1.03, False)):
            result = verdict(TIES, TIES + share * limit * noise, quantization)
            assert result.passed is passed, (quantization, share)


@pytest.mark.parametrize("quantization", [None, "float16", *EIGHT_BITS])
def test_another_answer_fails_where_the_model_is_decided(quantization):
    found = SURE.copy()
    found[:, [0, 1]] = found[:, [1, 0]]
    result = verdict(SURE, found, quantization)
    assert result.decided == 64 and result.decided_agreement < 0.9
    assert not result.passed
    assert verdict(SURE, SURE, quantization).passed


def test_ties_and_sure_images_are_each_judged_as_what_they_are():
    expected = np.concatenate([SURE, 8 * TIES])
    found = np.concatenate([SURE, 8 * ROUNDED])
    result = verdict(expected, found, "int8")
    assert result.passed and result.decided == 64 and result.top1_agreement < 1
    assert "of 64 that are decided" in result.tolerance
    assert "of 64 decided" in str(result) and "100.00%" in str(result)
    # One percent of the sure ones is less than one image.
    found[0] = np.roll(found[0], 1)
    assert not verdict(expected, found, "int8").passed


@pytest.mark.parametrize("limit", [1e-4, 1e-2])
def test_a_tie_within_the_rounding_of_a_float_format_does_not_count(limit):
    expected = np.array([[1.0, 1.0 + limit, 0.0], [3.0, 1.0, 0.0]])
    found = expected + [[0.9 * limit, -0.9 * limit, 0.0], [0.0, 0.0, 0.0]]
    result = verdict(expected, found, {1e-4: None, 1e-2: "float16"}[limit])
    assert result.top1_agreement == 0.5 and result.decided_agreement == 1
    assert result.passed, result
    assert not verdict(expected, found + [[2 * limit, 0, 0]], None).passed


@pytest.mark.parametrize("quantization", EIGHT_BITS)
def test_a_decision_next_to_a_half_does_not_count(quantization):
    expected = np.concatenate([np.linspace(-4, 4, 50), np.full(50, 1e-3)])[:, None]
    found = np.where(abs(expected) < 0.01, -expected, expected)
    result = verdict(expected, found, quantization, **LOGIT)
    assert result.threshold_agreement == 0.5 and result.decided_agreement == 1
    assert result.passed, result
    assert not verdict(expected, -expected, quantization, **LOGIT).passed


@pytest.mark.parametrize(
    ("expected", "found", "quantization", "words"),
    [
        (SURE, np.roll(SURE, 1, axis=1), "int8", "this file of this model"),
        (SURE, SURE * np.nan, "int8", "file's outputs hold NaN"),
        (SURE * np.nan, SURE, "int8", "model's own outputs hold NaN"),
        (SURE, SURE + 0.01, None, "differ by up to 1.0e-02"),
        (SURE[:9], SURE[[0, 1, 2, 3, 4, 5, 6, 7, 8]] * 1.0, None, None),
    ],
    ids=["other weights", "NaN", "the model's NaN", "float32", "passed"],
)
def test_a_failure_says_what_to_do(expected, found, quantization, words):
    result = verdict(expected, found, quantization)
    assert result.passed is (words is None)
    assert result.to_dict()["advice"] == result.advice
    if words is None:
        assert result.advice is None
    else:
        assert words in result.advice
        assert words in " ".join(str(result).split())


@pytest.mark.parametrize("noise", [0.1, 1.5])
def test_the_advice_about_8_bits_depends_on_how_close_the_scores_are(noise):
    found = SURE + noise * RNG.normal(0, 1, SURE.shape)
    # Also for little noise, one of 64 gets another class.
    found[0] = np.where(np.arange(10) == 1, 12, found[0])
    for quantization in EIGHT_BITS:
        advice = verdict(SURE, found, quantization).advice
        assert ("scores are close" in advice) == (noise < 1)
        assert ("more images: 64 are few" in advice) == (noise < 1)
        assert ("`dynamic_int8`" in advice) == (quantization == "int8")


CONFIG = CvTConfig((StageConfig(32, 2, 2, 7, 4, 2, cls_token=True),))


@tensorflow_only
@pytest.mark.parametrize("quantization", [None, *EIGHT_BITS])
def test_a_network_with_fresh_weights_is_judged_by_its_scores(tmp_path, quantization):
    images = deploy.made_up_images(32, 32, 3, 32)
    networks_of_seeds = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        networks_of_seeds.append(
            keras_cvt.CvT(CONFIG, classes=1000, input_shape=(32, 32, 3))
        )
    model, other = networks_of_seeds
    path = tmp_path / "m.tflite"
    calibration = images if quantization == "int8" else None
    deploy.export(
        model, path, quantization=quantization, representative_images=calibration
    )
    assert deploy.verify(model, path, images).passed
    result = deploy.verify(other, path, images)
    assert not result.passed and "this file of this model" in result.advice


@tensorflow_only
def test_a_trained_head_that_is_broken_fails(tmp_path):
    """The file keeps most of the scores, and the best class of none."""
    model = networks.build(networks.CONFIGS["linear"], input_shape=(32, 32, 3))
    path = tmp_path / "m.tflite"
    deploy.export(model, path, quantization="dynamic_int8")
    images = networks.images(16, 32, 32, 3)
    assert deploy.verify(model, path, images).passed
    bias = model.get_layer("head").bias
    best = model.predict(images, verbose=0).argmax(-1)
    bias.assign(bias - 3 * np.eye(10)[np.bincount(best).argmax()])
    assert not deploy.verify(model, path, images).passed
