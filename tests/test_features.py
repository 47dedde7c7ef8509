"""The features of images: what the head of a network takes."""

import hashlib
import shutil

import keras
import numpy as np
import pytest
from image_folders import write_image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt.features import ImageFeatures, embed_files, feature_extractor

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 24, 16, 3)).astype("float32")


def config(cls_token=True):
    first = StageConfig(8, 1, 1, 7, 4, 2)
    return CvTConfig((first, StageConfig(12, 1, 2, 3, 2, 1, cls_token=cls_token)))


def outputs(model, images=IMAGES):
    return keras.ops.convert_to_numpy(model(images, training=False))


@pytest.mark.any_backend
@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("activation", ["softmax", None])
def test_the_features_are_what_the_head_takes(cls_token, activation):
    model = keras_cvt.CvT(
        config(cls_token), classes=5, classifier_activation=activation
    )
    extractor = feature_extractor(model)
    features = outputs(extractor)
    assert features.shape == (2, 12)
    kernel, bias = model.get_layer("head").get_weights()
    logits = outputs(model.with_activation(None))
    np.testing.assert_allclose(features @ kernel + bias, logits, atol=1e-6)
    # The same layers, so that training one changes the other.
    assert extractor.get_layer("stage0") is model.get_layer("stage0")
    token = keras_cvt.CvT(config(cls_token), include_top=False, pooling="token")
    token.set_weights(extractor.get_weights())
    np.testing.assert_allclose(features, outputs(token), atol=1e-6)


@pytest.mark.any_backend
@pytest.mark.parametrize("pooling", ["avg", "max", "token"])
def test_a_model_without_a_head_gives_its_own_outputs(pooling):
    model = keras_cvt.CvT(config(), include_top=False, pooling=pooling)
    np.testing.assert_allclose(outputs(feature_extractor(model)), outputs(model))


@pytest.mark.any_backend
def test_maps_are_averaged():
    model = keras_cvt.CvT(config(), include_top=False)
    features = outputs(feature_extractor(model))
    np.testing.assert_allclose(features, outputs(model).mean((1, 2)), atol=1e-6)


@pytest.mark.any_backend
def test_layers_in_front_belong_to_the_extractor():
    images = keras.Input((24, 16, 3))
    resized = keras.layers.Resizing(32, 32, data_format="channels_last")(images)
    model = keras_cvt.CvT(config(), input_tensor=resized, classes=5)
    extractor = feature_extractor(model)
    assert extractor.input_shape == (None, 24, 16, 3)
    kernel, bias = model.get_layer("head").get_weights()
    expected = outputs(model.with_activation(None))
    np.testing.assert_allclose(outputs(extractor) @ kernel + bias, expected, atol=1e-6)


@pytest.mark.any_backend
def test_a_head_that_makes_features_belongs_to_the_extractor():
    model = keras_cvt.CvT(config(), classes=7, classifier_activation=None)
    model.output_kind = "features"
    np.testing.assert_allclose(outputs(feature_extractor(model)), outputs(model))


def test_the_extractor_knows_size_and_origin_of_the_model():
    model = keras_cvt.CvT(config(), classes=5, name="own")
    model.eval_transform = keras_cvt.preprocessing.EvalTransform((32, 24), None)
    model.source_weights = "origin"
    extractor = feature_extractor(model)
    assert extractor.eval_transform == model.eval_transform
    assert (extractor.source_weights, extractor.name) == ("origin", "own")


def test_several_outputs_are_no_features():
    backbone = keras_cvt.CvT(config(), include_top=False)
    pyramid = keras.Model(backbone.input, backbone.pyramid_outputs)
    with pytest.raises(ValueError, match="with a head, or with one output"):
        feature_extractor(pyramid)
    with pytest.raises(ValueError, match="Expected a functional CvT"):
        feature_extractor(keras.Sequential([keras.layers.Dense(2)]))


@pytest.fixture
def model():
    network = keras_cvt.CvT(config(), classes=5, name="own")
    network.eval_transform = keras_cvt.preprocessing.EvalTransform((16, 16), None)
    return network


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / "photos" / f"{i}.png" for i in range(5)]
    for seed, path in enumerate(found):
        write_image(path, seed)
    return found


@pytest.mark.any_backend
def test_files_are_embedded_in_order_whatever_the_batch(model, paths):
    images = keras_cvt.preprocess_input(paths, model)
    expected = outputs(feature_extractor(model), images)
    for batch_size in (2, 8):
        found, unreadable = embed_files(model, paths, batch_size=batch_size)
        assert found.features.dtype == "float32" and unreadable == []
        np.testing.assert_allclose(found.features, expected, atol=1e-5)
        assert found.paths == tuple(paths)


def test_files_that_cannot_be_read_take_their_labels_along(model, paths):
    paths[1].write_bytes(b"no image")
    found, unreadable = embed_files(
        model, paths, labels=[0, 1, 0, 1, 1], class_names=("a", "b"), batch_size=2
    )
    assert [path for path, _ in unreadable] == [paths[1]]
    assert len(found.features) == 4 and paths[1] not in found.paths
    assert found.labels.tolist() == [0, 0, 1, 1] and found.class_names == ("a", "b")


def test_no_readable_file_is_an_error(model, paths):
    paths[0].write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"images that can be read.*0\.png"):
        embed_files(model, paths[:1])
    with pytest.raises(ValueError, match="Received: no images"):
        embed_files(model, [])
    with pytest.raises(ValueError, match="batch_size"):
        embed_files(model, paths, batch_size=0)


def test_a_model_that_takes_no_photos_is_refused(paths):
    model = keras_cvt.CvT(config(), include_preprocessing=False)
    with pytest.raises(ValueError, match="include_preprocessing=True"):
        embed_files(model, paths)


def test_a_file_says_what_made_it_and_moves_with_its_images(model, paths, tmp_path):
    found, _ = embed_files(model, paths, labels=[0, 1, 0, 1, 0], class_names="ab")
    found.save(tmp_path / "sub" / "features.npz")
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    with np.load(moved / "sub" / "features.npz", allow_pickle=False) as file:
        assert sorted(file) == [
            *("class_names", "features", "labels", "metadata", "paths")
        ]
        assert file["paths"].tolist() == [f"../photos/{i}.png" for i in range(5)]
    loaded = ImageFeatures.load(moved / "sub" / "features.npz")
    np.testing.assert_array_equal(loaded.features, found.features)
    np.testing.assert_array_equal(loaded.labels, found.labels)
    assert loaded.class_names == ("a", "b") and loaded.metadata == found.metadata
    assert all(path.is_file() for path in loaded.paths)
    content = hashlib.sha256()
    for weight in feature_extractor(model).get_weights():
        content.update(weight.tobytes())
    assert loaded.metadata == {
        "model": "own",
        "weights": None,
        "weights_sha256": content.hexdigest(),
        "image_size": [16, 16],
        "crop_ratio": None,
    }


def test_labels_need_no_names(model, paths, tmp_path):
    labels = list(range(len(paths)))
    found, _ = embed_files(model, paths, labels=labels)
    found.save(tmp_path / "features.npz")
    loaded = ImageFeatures.load(tmp_path / "features.npz")
    np.testing.assert_array_equal(loaded.labels, labels)
    assert loaded.class_names is None
    with pytest.raises(ValueError, match="a label for each image"):
        embed_files(model, paths, labels=labels[:-1])


def test_a_folder_behind_a_link_moves_with_its_images(model, paths, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    photo = tmp_path / "link" / "a.png"
    shutil.copy(paths[0], photo)
    found, _ = embed_files(model, [photo])
    found.save(tmp_path / "link" / "features.npz")
    (tmp_path / "link").unlink()
    (tmp_path / "real").rename(tmp_path / "moved")
    loaded = ImageFeatures.load(tmp_path / "moved" / "features.npz")
    assert loaded.paths[0].samefile(tmp_path / "moved" / "a.png")


def test_paths_that_are_not_utf8_survive(model, paths, tmp_path):
    strange = paths[0].with_name("caf\udce9.png")
    try:
        paths[0].rename(strange)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    found, _ = embed_files(model, [strange])
    found.save(tmp_path / "features.npz")
    (path,) = ImageFeatures.load(tmp_path / "features.npz").paths
    assert path.is_file() and path.name == strange.name


@pytest.mark.parametrize("name", ["other.npz", "text.npz", "array.npz"])
def test_another_file_is_refused(tmp_path, name):
    np.savez(tmp_path / "other.npz", features=np.zeros((1, 2)))
    (tmp_path / "text.npz").write_text("features")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=rf"`keras-cvt embed` wrote.*{name}"):
        ImageFeatures.load(tmp_path / name)
