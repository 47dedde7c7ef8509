"""The records of the published weights, and how they are listed."""

import pytest

import keras_cvt
from keras_cvt import zoo


def test_every_published_network_and_weight_is_listed():
    assert list(keras_cvt.list_models()) == ["cvt13", "cvt21", "cvtw24"]
    assert len(keras_cvt.list_weights()) == 8
    assert list(keras_cvt.list_weights("cvt13")) == [
        "imagenet",
        "imagenet_384",
        "imagenet22k_384",
    ]


def test_the_table_shows_what_people_choose_by():
    table = str(keras_cvt.list_weights())
    for fact in ("cvt21/imagenet22k_384", "84.91", "97.62", "apache-2.0", "4.57"):
        assert fact in table
    assert max(map(len, table.splitlines())) <= 110


def test_both_tags_of_cvt_w24_mean_the_same_weights():
    weights = keras_cvt.list_weights("cvtw24")
    assert weights["imagenet"] is weights["imagenet22k_384"]
    assert zoo.eval_transform("cvtw24/imagenet").image_size == (384, 384)


def test_an_unknown_model_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="cvtw24"):
        keras_cvt.list_weights("cvt99")
