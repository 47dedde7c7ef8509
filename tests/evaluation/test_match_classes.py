"""Classes of folders and data sets are found among those of the model."""

import pytest
from evaluated import network

from keras_cvt.evaluation import match_classes
from keras_cvt.inference import classifier_of
from keras_cvt.preprocessing.predictions import imagenet_classes


@pytest.fixture(scope="module")
def imagenet():
    return classifier_of(network(None, classes=1000))


@pytest.fixture(scope="module")
def pets():
    return classifier_of(network(("cat", "dog", "emu")))


@pytest.fixture(scope="module")
def unnamed():
    return classifier_of(network(None, classes=3))


def test_some_of_the_classes_are_found_by_name(pets):
    assert match_classes(["dog", "cat"], pets) == [1, 0]
    assert match_classes(["emu"], pets) == [2]


def test_imagenets_classes_are_found_by_wordnet_id_and_by_name(imagenet):
    wnids, names = zip(*imagenet_classes(), strict=True)
    assert match_classes(sorted(wnids), imagenet) == list(range(1000))
    assert match_classes(["n03126707", "n02012849"], imagenet) == [517, 134]
    assert match_classes(["tench", "great_white_shark"], imagenet) == [0, 2]
    assert match_classes(["toilet_tissue", "n01440764"], imagenet) == [999, 0]


def test_a_name_of_two_classes_is_refused(imagenet):
    with pytest.raises(ValueError, match="or WordNet ids. Received: crane, of which"):
        match_classes(["tench", "crane"], imagenet)


def test_the_numbers_of_imagenet_v2_are_imagenets_classes(imagenet):
    names = [str(i) for i in range(1000)]
    assert match_classes(names[::-1], imagenet) == list(range(1000))[::-1]
    with pytest.raises(ValueError, match="Received: 3, 7"):
        match_classes(["3", "7"], imagenet)
    with pytest.raises(ValueError, match="names or WordNet ids"):
        match_classes([str(i + 1) for i in range(1000)], imagenet)


def test_numbers_that_are_class_names_are_names():
    digits = classifier_of(network([str(i) for i in (2, 0, 1)]))
    assert match_classes(["0", "1", "2"], digits) == [1, 2, 0]


def test_a_model_without_names_takes_as_many_classes_in_order(unnamed):
    assert match_classes(["x", "y", "z"], unnamed) == [0, 1, 2]
    with pytest.raises(ValueError, match="all 3 classes.*Received: 2 classes: x, y"):
        match_classes(["x", "y"], unnamed)


@pytest.mark.parametrize("names", [("cat", "cow"), ("a", "b", "c")])
def test_other_names_are_refused_also_if_they_are_as_many(pets, names):
    message = f"model's 3 classes: cat, dog, emu. Received: {names[-1]}|Received: a, b"
    with pytest.raises(ValueError, match=message):
        match_classes(names, pets)


def test_one_class_under_two_names_is_refused(imagenet):
    with pytest.raises(ValueError, match="tench and n01440764, which are one class"):
        match_classes(["tench", "n01440764"], imagenet)
