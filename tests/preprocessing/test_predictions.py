"""From scores to class names."""

import numpy as np
import pytest

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, decode_predictions


def test_predictions_are_named_in_falling_order():
    scores = np.random.default_rng(0).random((3, 1000), "float32")
    scores[0, [0, 999, 281]] = [3.0, 2.5, 2.25]
    decoded = decode_predictions(scores, top=3)
    assert decoded[0] == [
        ("n01440764", "tench", 3.0),
        ("n15075141", "toilet_tissue", 2.5),
        ("n02123045", "tabby", 2.25),
    ]
    for row, named in zip(scores, decoded, strict=True):
        values = [score for _, _, score in named]
        assert values == sorted(row.tolist(), reverse=True)[:3]
        assert all(type(score) is float for score in values)


def test_each_of_the_1000_classes_has_its_own_wnid():
    ((*named,),) = decode_predictions(-np.arange(1000.0)[None], top=1000)
    assert len({wnid for wnid, _, _ in named}) == 1000
    assert [score for _, _, score in named] == (-np.arange(1000.0)).tolist()


def test_predictions_may_be_tensors_of_any_backend():
    tf = pytest.importorskip("tensorflow")
    jnp = pytest.importorskip("jax.numpy")
    torch = pytest.importorskip("torch")
    scores = np.random.default_rng(0).random((2, 1000), "float32")
    expected = decode_predictions(scores)
    assert [len(named) for named in expected] == [5, 5]
    for convert in (tf.constant, jnp.asarray, torch.tensor):
        assert decode_predictions(convert(scores)) == expected
    leaf = torch.tensor(scores, requires_grad=True)
    assert decode_predictions(leaf) == expected


def test_classes_of_its_own_are_named_by_the_model():
    stage = StageConfig(8, 1, 1, 7, 4, 2, cls_token=True)
    model = keras_cvt.CvT(CvTConfig((stage,)), classes=3)
    scores = [[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]
    with pytest.raises(ValueError, match="1000 classes.*`class_names=model"):
        decode_predictions(scores, class_names=model.class_names)
    model.class_names = ["daisy", "rose", "tulip"]
    assert decode_predictions(scores, class_names=model.class_names) == [
        [("rose", 0.5), ("tulip", 0.3), ("daisy", 0.2)],
        [("daisy", 0.6), ("tulip", 0.3), ("rose", 0.1)],
    ]
    best = decode_predictions(scores, top=1, class_names=model.class_names)
    assert best == [[("rose", 0.5)], [("daisy", 0.6)]]


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3), ()])
def test_predictions_of_another_shape_than_the_names_are_refused(shape):
    with pytest.raises(ValueError, match="Received: "):
        decode_predictions(np.zeros(shape), class_names=["a", "b", "c"])


def test_an_empty_batch_has_no_predictions():
    assert decode_predictions(np.zeros((0, 1000))) == []


@pytest.mark.parametrize("shape", [(1000,), (2, 999), (1, 2, 1000), ()])
def test_predictions_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="Received: "):
        decode_predictions(np.zeros(shape))


@pytest.mark.parametrize("top", [0, -1, 1001, 2.0, None, True])
def test_top_is_between_1_and_1000(top):
    with pytest.raises(ValueError, match="Received: "):
        decode_predictions(np.zeros((1, 1000)), top=top)
