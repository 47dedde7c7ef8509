"""The records of the published weights, and how they are listed."""

import re

import pytest

import keras_cvt
from keras_cvt import zoo
from keras_cvt.repository.client import CHECKPOINT_FILES


def test_every_published_network_and_weight_is_listed():
    assert list(keras_cvt.list_models()) == ["cvt13", "cvt21", "cvtw24"]
    assert len(keras_cvt.list_weights()) == 8
    assert list(keras_cvt.list_weights("cvt13")) == [
        "imagenet",
        "imagenet_384",
        "imagenet22k_384",
    ]


def test_the_table_shows_sizes_accuracies_and_the_licence():
    table = str(keras_cvt.list_weights())
    for fact in ("cvt21/imagenet22k_384", "84.91", "97.62", "apache-2.0", "4.57"):
        assert fact in table
    assert max(map(len, table.splitlines())) <= 110


def test_both_tags_of_cvt_w24_mean_the_same_weights():
    weights = keras_cvt.list_weights("cvtw24")
    assert weights["imagenet"] is weights["imagenet22k_384"]
    assert zoo.eval_transform("cvtw24/imagenet").image_size == (384, 384)


def test_an_unknown_model_raises_an_error_with_the_valid_ones():
    with pytest.raises(ValueError, match="cvtw24.*Received: model='cvt99'"):
        keras_cvt.list_weights("cvt99")


@pytest.mark.parametrize(
    ("name", "model", "found"),
    [
        ("imagenet", None, "cvt13/imagenet"),
        ("imagenet", "cvt21", "cvt21/imagenet"),
        ("cvt21/imagenet_384", "cvt21", "cvt21/imagenet_384"),
        ("cvtw24/imagenet", None, "cvtw24/imagenet22k_384"),
    ],
)
def test_weights_are_found_by_full_name_and_by_tag(name, model, found):
    assert zoo.find(name, model).name == found


def test_an_unknown_name_raises_an_error_with_the_valid_ones():
    with pytest.raises(zoo.UnknownWeightsError) as error:
        zoo.find("imagenet_22k", "cvtw24")
    for text in ("for cvtw24", "'cvtw24/imagenet'", "Received: 'imagenet_22k'"):
        assert text in str(error.value)
    assert "cvt13" not in str(error.value)


def test_the_records_are_those_of_the_published_repositories():
    assert [
        (r.name, r.repo, r.eval_transform.image_size[0], r.top1) for r in zoo.WEIGHTS
    ] == [
        ("cvt13/imagenet", "microsoft/cvt-13", 224, 81.59),
        ("cvt13/imagenet_384", "microsoft/cvt-13-384", 384, 83.0),
        ("cvt13/imagenet22k_384", "microsoft/cvt-13-384-22k", 384, 83.26),
        ("cvt21/imagenet", "microsoft/cvt-21", 224, 82.46),
        ("cvt21/imagenet_384", "microsoft/cvt-21-384", 384, 83.27),
        ("cvt21/imagenet22k_384", "microsoft/cvt-21-384-22k", 384, 84.91),
        ("cvtw24/imagenet22k_384", "microsoft/cvt-w24-384-22k", 384, 87.58),
    ]


def test_the_package_records_the_files_of_six_repositories(monkeypatch):
    monkeypatch.delenv(zoo.HUB_FILES)
    known = zoo.known_files()
    repos = {record.repo for record in zoo.WEIGHTS}
    assert repos - set(known) == {"microsoft/cvt-21-384-22k"}
    assert set(known) < repos
    for record in zoo.WEIGHTS:
        files = record.files
        assert (files.revision is None) == (not files.sha256)
        assert files.revision is None or re.fullmatch("[0-9a-f]{40}", files.revision)
        assert set(files.sha256) <= set(CHECKPOINT_FILES)
        for digest in files.sha256.values():
            assert re.fullmatch("[0-9a-f]{64}", digest)
            assert zoo.find_file(digest) is record
    assert zoo.find_file("0" * 64) is None


@pytest.mark.parametrize(
    "content",
    [
        None,
        "[]",
        "{",
        '{"microsoft/cvt-13": {"x": 1}}',
        '{"microsoft/cvt-13": {"revision": "main", "sha256": {}}}',
        '{"microsoft/cvt-13": {"revision": null, "sha256": {}}}',
        '{"microsoft/cvt-13": {"revision": "%s", "sha256": null}}' % ("a" * 40),
        '{"microsoft/cvt-13": {"revision": "%s", "sha256": {"a": "b"}}}' % ("a" * 40),
    ],
)
def test_a_record_that_cannot_be_read_is_a_clear_error(content, tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(zoo.HUB_FILES, str(path))
    with pytest.raises(zoo.RecordError, match=f"{zoo.HUB_FILES}.*Received: {path}"):
        _ = zoo.WEIGHTS[0].files
