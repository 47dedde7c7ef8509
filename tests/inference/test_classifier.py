"""One function for Keras models and exported files: images to scores."""

import keras
import numpy as np
import pytest

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, deploy
from keras_cvt.inference import classifier_of
from keras_cvt.preprocessing import EvalTransform

CONFIG = CvTConfig((StageConfig(8, 1, 1, 7, 4, 2, cls_token=True),))
IMAGES = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype("float32")


def network(classes=3, activation="softmax", **arguments):
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(
        CONFIG, classes=classes, classifier_activation=activation, **arguments
    )
    # Scores that differ between images and classes.
    head = model.get_layer("head") if classes else None
    if head is not None:
        head.kernel.assign(np.random.default_rng(1).normal(0, 3, head.kernel.shape))
    model.eval_transform = EvalTransform((32, 32), None)
    return model


@pytest.mark.any_backend
@pytest.mark.parametrize("activation", ["softmax", None])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 8])
def test_the_scores_are_the_models_probabilities(activation, batch_size):
    model = network(activation=activation)
    expected = model.with_activation("softmax").predict(IMAGES, verbose=0)
    scores = classifier_of(model).scores(IMAGES, batch_size)
    assert scores.shape == (5, 3) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert np.ptp(scores, axis=0).max() > 0.01


@pytest.mark.any_backend
def test_one_logit_becomes_the_probability_of_yes():
    model = network(1, None)
    expected = model.with_activation("sigmoid").predict(IMAGES, verbose=0)
    np.testing.assert_allclose(classifier_of(model).scores(IMAGES), expected, atol=1e-6)


def test_every_call_has_the_same_number_of_images():
    model = network()
    classifier = classifier_of(model)
    shapes = []

    def call(images):
        shapes.append(images.shape)
        return model.predict_on_batch(images)

    object.__setattr__(classifier, "call", call)
    classifier.scores(IMAGES, 3)
    assert shapes == [(3, 32, 32, 3)] * 2
    assert classifier.scores(IMAGES[:0], 3).shape == (0, 3)


def test_the_best_classes_come_first_with_their_names():
    model = network()
    model.class_names = ["daisy", "rose", "tulip"]
    (best,) = classifier_of(model).best(np.array([[0.2, 0.7, 0.1]]), 2)
    assert best == [{"label": "rose", "score": 0.7}, {"label": "daisy", "score": 0.2}]
    named = classifier_of(model, class_names=["a", "b", "c"])
    assert named.best(np.array([[0.2, 0.7, 0.1]]), 1)[0][0]["label"] == "b"
    thousand = classifier_of(network(1000)).best(np.eye(1000)[:1], 1)
    assert thousand == [[{"wnid": "n01440764", "label": "tench", "score": 1.0}]]


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [("m.tflite", 1), ("m.onnx", None), ("m.xml", None), ("m", None)],
)
def test_an_exported_file_gives_the_models_scores(tmp_path, name, batch_size):
    model = network(activation=None)
    model.class_names = ["daisy", "rose", "tulip"]
    deploy.export(model, tmp_path / name)
    classifier = classifier_of(tmp_path / name)
    assert classifier.batch_size == batch_size
    assert [entry["label"] for entry in classifier.classes] == list(model.class_names)
    assert classifier.eval_transform == model.eval_transform
    expected = classifier_of(model).scores(IMAGES)
    np.testing.assert_allclose(classifier.scores(IMAGES, 2), expected, atol=2e-5)


def test_a_saved_model_is_opened_by_its_path(tmp_path):
    model = network()
    model.save(tmp_path / "m.keras")
    opened = classifier_of(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        opened.scores(IMAGES), classifier_of(model).scores(IMAGES)
    )
    assert (
        opened.origin["weights_sha256"]
        == (classifier_of(model).origin["weights_sha256"])
    )


def test_the_origin_tells_files_apart(tmp_path):
    model = network()
    deploy.export(model, tmp_path / "a.tflite")
    model.get_layer("head").bias.assign([1.0, 2.0, 3.0])
    deploy.export(model, tmp_path / "b.tflite")
    one, other = (classifier_of(tmp_path / n).origin for n in ("a.tflite", "b.tflite"))
    assert one["files_sha256"]["a.tflite"] != other["files_sha256"]["b.tflite"]


def test_what_is_no_classifier_of_photos_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected a classifier"):
        classifier_of(keras_cvt.CvT(CONFIG, include_top=False))
    with pytest.raises(ValueError, match="normalised"):
        classifier_of(network(include_preprocessing=False))
    with pytest.raises(ValueError, match="Expected 3 class names"):
        classifier_of(network(), class_names=["one"])
    for name in ("none.keras", "none.tflite"):
        with pytest.raises(FileNotFoundError, match=name):
            classifier_of(tmp_path / name)
    (tmp_path / "text.tflite").write_text("no model")
    with pytest.raises(ValueError, match=r"text\.tflite"):
        classifier_of(tmp_path / "text.tflite")
    keras.Sequential([keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="Expected a model of keras_cvt"):
        classifier_of(tmp_path / "other.keras")
