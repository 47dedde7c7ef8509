"""Layers in front of the network, in every program that feeds or writes a model."""

import contextlib
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from command_line import run
from keras import layers
from PIL import Image
from reference import to_numpy

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, conversion, deploy, hub
from keras_cvt.checkpoints import save_checkpoint, sources
from keras_cvt.description import _is_inert, _keeps_range
from keras_cvt.hub import loading
from keras_cvt.preprocessing import EvalTransform
from keras_cvt.training import fitting

CONFIG = CvTConfig((StageConfig(8, 1, 2, 7, 4, 2, cls_token=True),), activation="gelu")
SIZE = 32


@keras.saving.register_keras_serializable(package="tests")
class RandomNothing(layers.Layer):
    """Somebody's own layer whose name promises what it does not do."""

    def call(self, inputs):
        return inputs / 255


def rgb(image):
    return layers.Concatenate(name="rgb")([image, image, image])


# Layers, channels of the images, whether the model takes pixels, whether the layers
# compute anything, and other arguments of the builder.
FRONTS = {
    "nothing": (None, 3, True, False, {}),
    "RandomFlip": (lambda x: layers.RandomFlip(name="in_front")(x), 3, True, False, {}),
    "RandomFlip of normalised": (
        lambda x: layers.RandomFlip(name="in_front")(x),
        3,
        False,
        False,
        {"include_preprocessing": False},
    ),
    "augmentation in a model": (
        lambda x: keras.Sequential(
            [layers.RandomFlip(), layers.RandomRotation(0.1)], name="in_front"
        )(x),
        3,
        True,
        False,
        {},
    ),
    "Resizing": (
        lambda x: layers.Resizing(SIZE, SIZE, name="in_front")(x),
        3,
        True,
        True,
        {},
    ),
    "CenterCrop": (
        lambda x: layers.CenterCrop(SIZE, SIZE, name="in_front")(x),
        3,
        True,
        True,
        {},
    ),
    "RandomCrop": (
        lambda x: layers.RandomCrop(SIZE, SIZE, name="in_front")(x),
        3,
        True,
        True,
        {},
    ),
    "Rescaling": (
        lambda x: layers.Rescaling(255.0, name="in_front")(x),
        3,
        False,
        True,
        {},
    ),
    "Rescaling of normalised": (
        lambda x: layers.Rescaling(1 / 127.5, -1, name="in_front")(x),
        3,
        False,
        True,
        {"include_preprocessing": False},
    ),
    "an operation": (lambda x: x * 255.0, 3, False, True, {}),
    "somebody's own layer": (
        lambda x: RandomNothing(name="in_front")(x),
        3,
        False,
        True,
        {},
    ),
    "a Rescaling in a model": (
        lambda x: keras.Sequential([layers.Rescaling(255.0)], name="in_front")(x),
        3,
        False,
        True,
        {},
    ),
    "grey, repeated": (
        lambda x: layers.Concatenate(name="in_front")([x, x, x]),
        1,
        True,
        True,
        {},
    ),
    "grey, a convolution": (
        lambda x: layers.Conv2D(3, 1, name="in_front")(x),
        1,
        False,
        True,
        {},
    ),
}
# The images in front of layers that resize are larger.
LARGER = {"Resizing", "CenterCrop", "RandomCrop"}
PHOTOS = [name for name, row in FRONTS.items() if row[1] == 3 and row[2]]


def build(name):
    keras.utils.set_random_seed(0)
    front, channels, _, _, arguments = FRONTS[name]
    side = 48 if name in LARGER else SIZE
    image = keras.Input((side, side, channels))
    tensor = {"input_tensor": front(image) if front else image}
    model = keras_cvt.CvT(CONFIG, classes=3, name="tiny", **tensor, **arguments)
    # So that the outputs depend on the images.
    head = model.get_layer("head").kernel
    head.assign(np.random.default_rng(0).normal(0, 0.5, head.shape))
    return model


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in FRONTS}


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype="uint8")
    Image.fromarray(pixels).save(path)
    return path


def own_images(model):
    """Return images of the model's own size, channels and range."""
    return conversion.example_images(model.description)


@pytest.mark.parametrize("name", FRONTS)
def test_the_description_says_what_the_model_takes(models, name):
    model, (_, channels, pixels, _, _) = models[name], FRONTS[name]
    described = model.description
    assert described.value_range == ((0, 255) if pixels else None)
    assert described.channels == channels
    side = model.input_shape[1]
    # Images of the size in front of a Resizing, not behind it.
    assert described.eval_transform.image_size == (side, side)
    assert described.image_size == (side, side)
    again = described.from_dict(json.loads(json.dumps(described.to_dict())))
    assert again == described


@pytest.mark.parametrize("name", FRONTS)
def test_example_images_are_what_the_model_takes(models, name):
    images = own_images(models[name])
    assert images.shape == (2, *models[name].input_shape[1:])
    assert (images.max() > 100) == FRONTS[name][2]
    assert np.isfinite(models[name](images, training=False)).all()


@pytest.mark.parametrize("name", FRONTS)
def test_predict_feeds_what_the_model_takes_or_refuses(models, photo, tmp_path, name):
    model = models[name]
    model.save(tmp_path / "m.keras")
    status, printed, error = run(
        "predict", photo, "--model", tmp_path / "m.keras", "--json"
    )
    if name not in PHOTOS:
        assert (
            status == 1 and "Expected a model that takes RGB images of 0-255" in error
        )
        return
    expected = to_numpy(
        model(keras_cvt.preprocess_input(photo, model), training=False)
    )[0]
    (row,) = json.loads(printed)
    found = {entry["label"]: entry["score"] for entry in row["predictions"]}
    assert found == pytest.approx(
        {f"class {i}": score for i, score in enumerate(expected)}, abs=1e-4
    )


@pytest.mark.parametrize("name", FRONTS)
def test_info_counts_the_network_alone(models, tmp_path, name):
    models[name].save(tmp_path / "m.keras")
    status, printed, _ = run("info", tmp_path / "m.keras", "--json")
    assert status == 0
    network = models["nothing"]
    expected = sum(int(np.prod(w.shape)) for w in network.trainable_weights)
    assert json.loads(printed)["total"]["parameters"] == expected


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
@pytest.mark.parametrize("name", FRONTS)
def test_a_saved_model_is_the_whole_model(models, photo, tmp_path, name, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(deploy.verification, "_seconds", lambda run: 1.0)
    model = models[name]
    metadata = deploy.export(model, tmp_path / "m")
    assert metadata["input"]["range"] == ([0, 255] if FRONTS[name][2] else None)
    result = deploy.verify(model, tmp_path / "m", own_images(model))
    assert result.passed, result
    signatures = tf.saved_model.load(str(tmp_path / "m")).signatures
    assert ("classify_encoded" in signatures) == (name in PHOTOS)
    if name in PHOTOS:
        encoded = tf.constant([photo.read_bytes()])
        answer = signatures["classify_encoded"](encoded=encoded)
        best = to_numpy(
            model(keras_cvt.preprocess_input(photo, model), training=False)
        ).max()
        # TensorFlow's resize is within two levels of PIL's.
        assert float(answer["scores"][0, 0]) == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("name", FRONTS)
def test_what_is_pushed_computes_the_same_or_is_refused_by_name(models, tmp_path, name):
    model, (_, _, _, computes, _) = models[name], FRONTS[name]
    folder = tmp_path / "page"
    writers = (
        lambda: hub.write_folder(model, folder, repo_id="me/x"),
        lambda: save_checkpoint(model, tmp_path / "folder", "transformers"),
    )
    if computes:
        # Keras numbers the operations that one process makes: multiply, multiply_1.
        layer = r"multiply(_\d+)?" if name == "an operation" else "in_front"
        for write in writers:
            with pytest.raises(ValueError, match=rf"with \['{layer}'\]"):
                write()
        assert not list(tmp_path.iterdir())
        return
    images = own_images(model)
    expected = to_numpy(model(images, training=False))
    for write in writers:
        write()
    for written in (folder, tmp_path / "folder"):
        loaded = loading.build(sources.resolve(written))
        np.testing.assert_allclose(to_numpy(loaded(images)), expected, atol=1e-6)
        assert loaded.description.value_range == model.description.value_range


@pytest.mark.parametrize("name", FRONTS)
def test_a_checkpoint_of_weights_holds_all_of_them_or_is_refused(
    models, tmp_path, name
):
    if name == "grey, a convolution":
        with pytest.raises(ValueError, match="in_front"):
            save_checkpoint(models[name], tmp_path / "m.safetensors")
        assert not list(tmp_path.iterdir())
        return
    save_checkpoint(models[name], tmp_path / "m.safetensors")
    again = keras_cvt.CvT(CONFIG, classes=3, weights=tmp_path / "m.safetensors")
    for ours, theirs in zip(again.weights, models[name].weights, strict=False):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
def test_files_of_an_unknown_range_are_not_compared_on_pixels(models, tmp_path):
    with pytest.raises(ValueError, match=r"representative images.*\['in_front'\]"):
        hub.write_artefacts(models["Rescaling"], tmp_path / "files", ["saved_model"])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports")
def test_augmentation_in_front_of_normalised_images_is_a_known_range(models, tmp_path):
    model = models["RandomFlip of normalised"]
    hub.write_artefacts(model, tmp_path / "files", ["saved_model"])
    written = deploy.read_metadata(tmp_path / "files/saved_model")["input"]
    assert written["range"] is None and written["range_known"]


@pytest.mark.parametrize("name", FRONTS)
def test_training_feeds_what_the_model_takes_or_refuses(models, name):
    images = SimpleNamespace(class_names=("a", "b", "c"))
    recipe = SimpleNamespace(image_size=models[name].input_shape[1])
    refused = pytest.raises(ValueError, match="takes RGB images of 0-255")
    with contextlib.nullcontext() if name in PHOTOS else refused:
        fitting._check(models[name], recipe, images, images)


# Each layer of Keras


INERT = [name for name in dir(layers) if name.startswith("Random")]
INERT.remove("RandomCrop")
INERT += ["AugMix", "CutMix", "MixUp", "RandAugment"]
ARGUMENTS = {
    "RandomBrightness": (0.5,),
    "RandomColorDegeneration": (0.5,),
    "RandomContrast": (0.5,),
    "RandomHue": (0.5,),
    "RandomPosterization": (4,),
    "RandomRotation": (0.2,),
    "RandomSaturation": (0.5,),
    "RandomSharpness": (0.5,),
    "RandomTranslation": (0.2, 0.2),
    "RandomZoom": (0.3,),
}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("name", INERT)
def test_an_augmentation_of_keras_computes_nothing_at_inference(name):
    layer = getattr(layers, name)(*ARGUMENTS.get(name, ()))
    assert _is_inert(layer) and _keeps_range(layer)
    found = keras.ops.convert_to_numpy(layer(IMAGES, training=False))
    np.testing.assert_array_equal(found, IMAGES)


@pytest.mark.parametrize(
    "layer",
    [layers.AutoContrast(), layers.Solarization(), layers.Equalization()],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_changes_pixels_at_inference_is_not_taken_for_one(layer):
    assert not _is_inert(layer) and not _keeps_range(layer)


def test_an_evaluation_transform_that_is_set_is_for_any_size():
    model = keras_cvt.CvT(CONFIG, classes=3)
    model.eval_transform = EvalTransform((48, 64), None)
    assert model.eval_transform == EvalTransform((48, 64), None)
