"""ModelDescription: what a model says about itself, and its JSON form."""

import copy
import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers, ops
from reference import normal, randomise, to_numpy

import keras_cvt
from keras_cvt import CvTConfig, CvTModel, StageConfig
from keras_cvt.description import ModelDescription, describe
from keras_cvt.eval_transform import EvalTransform

any_backend = pytest.mark.any_backend

CONFIG = CvTConfig((StageConfig(8, 1, 2, 7, 4, 2, cls_token=True),))
NAMES = ("ant", "bee", "cat")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3)).astype("float32")


def build(**arguments):
    model = keras_cvt.CvT(CONFIG, **{"classes": 3, "name": "tiny", **arguments})
    randomise(model)
    return model


@pytest.fixture(scope="module")
def body():
    """A model without a head, for new heads."""
    return build(include_top=False, pooling="token")


def with_head(body, *head):
    outputs = body.output
    for layer in head:
        outputs = layer(outputs)
    return CvTModel(body.input, outputs, name="tiny")


# Heads


@keras.saving.register_keras_serializable(package="tests")
def halve(x):
    return x / 2


HEADS = {
    "softmax": ([layers.Dense(3, "softmax")], "probabilities", "softmax"),
    "sigmoid": ([layers.Dense(3, "sigmoid")], "probabilities", "sigmoid"),
    "linear": ([layers.Dense(3)], "logits", "linear"),
    "relu": ([layers.Dense(3, "relu")], "regression", "relu"),
    "a function": ([layers.Dense(3, halve)], "regression", "custom"),
    "another name": (
        [layers.Dense(3, "softmax", name="my_classes")],
        "probabilities",
        "softmax",
    ),
    "two layers": (
        [layers.Dense(4, "relu"), layers.Dense(3, "softmax")],
        "probabilities",
        "softmax",
    ),
    "Softmax": ([layers.Dense(3), layers.Softmax()], "probabilities", "softmax"),
    "Activation": (
        [layers.Dense(3), layers.Activation("sigmoid", dtype="float32")],
        "probabilities",
        "sigmoid",
    ),
    "ops.softmax": ([layers.Dense(3), ops.softmax], "probabilities", "softmax"),
    "ops.sigmoid": ([layers.Dense(3), ops.sigmoid], "probabilities", "sigmoid"),
    "linear after softmax": (
        [layers.Dense(3), layers.Softmax(), layers.Activation("linear")],
        "probabilities",
        "softmax",
    ),
    "linear after a linear head": (
        [layers.Dense(3), layers.Activation("linear")],
        "logits",
        "linear",
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_outputs_are_read_off_the_head(body, name):
    head, outputs, activation = HEADS[name]
    described = with_head(body, *head).description
    assert (described.outputs, described.activation) == (outputs, activation)
    assert described.classes == 3
    assert described.is_classifier == (outputs in ("probabilities", "logits"))


@pytest.mark.parametrize("pooling", [None, "avg", "token"])
def test_a_model_without_a_head_gives_features(pooling):
    model = build(include_top=False, pooling=pooling)
    described = model.description
    assert (described.outputs, described.activation) == ("features", None)
    assert (model.classes, described.is_classifier) == (0, False)


def test_a_pyramid_gives_features(body):
    pyramid = CvTModel(body.input, body.pyramid_outputs)
    assert (pyramid.output_kind, pyramid.classes) == ("features", 0)


# Facts that are set


def test_output_kind_can_be_set_for_a_linear_head(body):
    model = with_head(body, layers.Dense(3))
    for kind in ("regression", "features", "logits"):
        model.output_kind = kind
        assert model.output_kind == kind
        assert keras.models.clone_model(model).output_kind == kind


@pytest.mark.parametrize("kind", ["logits", "regression"])
def test_output_kind_must_agree_with_the_head(kind):
    model = build()
    with pytest.raises(ValueError, match="'softmax'. Received: output_kind="):
        model.output_kind = kind
    assert model.output_kind == "probabilities"


def test_only_the_author_knows_the_outputs_of_another_activation(body):
    model = with_head(body, layers.Dense(3, halve))
    model.output_kind = "probabilities"
    assert model.description.is_classifier


def test_an_unknown_output_kind_raises_an_error():
    with pytest.raises(ValueError, match="'regression'.*Received: .*'scores'"):
        build().output_kind = "scores"


def test_a_linear_head_does_not_give_probabilities():
    model = build(classifier_activation=None)
    with pytest.raises(ValueError, match="Received: output_kind='probabilities'"):
        model.output_kind = "probabilities"
    assert model.output_kind == "logits"


def test_labels_is_an_alias_of_class_names():
    model = build()
    model.labels = NAMES
    assert model.class_names == model.labels == NAMES


@pytest.mark.parametrize("classes", [2, 4])
def test_class_names_are_dropped_for_a_head_of_another_size(classes):
    model = build()
    model.class_names = NAMES
    same = with_head(CvTModel(model.input, model.layers[-2].output), layers.Dense(3))
    assert same.class_names == NAMES
    other = CvTModel(model.input, layers.Dense(classes)(model.layers[-2].output))
    assert other.description.class_names is None


# Input


def test_the_input_is_that_of_the_builder():
    described = build(input_shape=(32, 48, 3)).description
    assert described.image_size == (32, 48)
    assert described.eval_transform == EvalTransform((32, 48), 0.875)
    assert (described.channels, described.value_range) == (3, (0, 255))
    described = build(include_preprocessing=False, input_shape=(None, None, 5))
    described = described.description
    assert described.image_size == (None, None)
    assert (described.channels, described.value_range) == (5, None)


def test_layers_in_front_are_listed_in_their_order():
    image = keras.Input((32, 40, 3), name="image")
    front = layers.RandomFlip(name="flip")(image)
    front = layers.Rescaling(255.0, name="rescale")(front)
    described = build(input_tensor=front).description
    assert described.layers_in_front == ("flip", "rescale")
    # Only the author knows the range of the values in front of them.
    assert described.value_range is None
    assert described.include_preprocessing
    assert described.image_size == (32, 40)


def test_the_channels_are_those_of_the_images_in_front():
    grey = keras.Input((32, 40, 1))
    model = build(input_tensor=layers.Concatenate(name="rgb")([grey, grey, grey]))
    assert model.channels == 1
    assert model.description.layers_in_front == ("rgb",)


def test_a_model_of_models_in_front_is_described():
    front = keras.Sequential([layers.RandomFlip()], name="augmentation")
    image = keras.Input((32, 40, 3))
    model = build(input_tensor=front(image))
    assert model.description.layers_in_front == ("augmentation",)


# Copies


def described_model(**arguments):
    model = build(**arguments)
    model.class_names = NAMES
    model.source_weights = "cvt13/imagenet"
    model.eval_transform = EvalTransform((48, 64), None)
    return model


def saved_and_loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


def cloned(model, tmp_path):
    return keras.models.clone_model(model)


def fused(model, tmp_path):
    return keras_cvt.deploy.fuse(model)


def fused_and_saved(model, tmp_path):
    return saved_and_loaded(keras_cvt.deploy.fuse(model), tmp_path)


COPIES = [saved_and_loaded, cloned, fused, fused_and_saved]


@any_backend
@pytest.mark.parametrize("make_copy", COPIES, ids=lambda function: function.__name__)
def test_a_copy_has_the_same_description(make_copy, tmp_path):
    image = keras.Input((32, 40, 3))
    for arguments in ({}, {"input_tensor": layers.RandomFlip(name="flip")(image)}):
        model = described_model(**arguments)
        described = model.description
        assert described.class_names == NAMES
        assert described.source_weights == "cvt13/imagenet"
        assert make_copy(model, tmp_path).description == described


@any_backend
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="slow without a compiler")
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_model_has_the_same_description(tmp_path):
    model = described_model()
    described = model.description
    model.quantize("int8")
    assert model.description == described
    assert saved_and_loaded(model, tmp_path).description == described


# with_activation


@any_backend
def test_with_activation_shares_the_layers_and_copies_the_head():
    model = described_model(classifier_activation=None)
    softmax = model.with_activation("softmax")
    assert softmax.output_kind == "probabilities"
    assert softmax.class_names == NAMES
    assert softmax.layers[:-1] == model.layers[:-1]
    assert softmax.layers[-1] is not model.layers[-1]
    logits, outputs = to_numpy(model(IMAGES)), to_numpy(softmax(IMAGES))
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    expected = exponents / exponents.sum(-1, keepdims=True)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-6)
    # And back.
    np.testing.assert_allclose(
        to_numpy(softmax.with_activation(None)(IMAGES)), logits, rtol=0, atol=1e-6
    )


@any_backend
@pytest.mark.parametrize(
    "name", ["Softmax", "Activation", "ops.softmax", "linear after softmax"]
)
def test_with_activation_replaces_an_activation_behind_the_head(body, name):
    head, _, _ = HEADS[name]
    model = with_head(body, *head)
    logits = model.with_activation(None)
    assert logits.output_kind == "logits"
    expected = keras.Model(model.input, head[0].output)(IMAGES)
    np.testing.assert_allclose(
        to_numpy(logits(IMAGES)), to_numpy(expected), rtol=0, atol=1e-6
    )


def test_with_activation_returns_the_model_itself_if_nothing_changes():
    model = build()
    assert model.with_activation("softmax") is model
    logits = build(classifier_activation=None)
    assert logits.with_activation(None) is logits


def test_with_activation_needs_a_head(body):
    with pytest.raises(ValueError, match="model with a head. Received: 'tiny'"):
        body.with_activation("softmax")


# Other models


def test_a_model_of_another_kind_raises_an_error():
    inputs = keras.Input((4,))
    for model in (keras.Model(inputs, layers.Dense(2)(inputs)), keras.Sequential()):
        with pytest.raises(ValueError, match="Expected a functional CvT.*Received"):
            describe(model)


def test_a_cvt_inside_another_model_is_not_described_as_that_model():
    image = keras.Input((32, 40, 3))
    outer = keras.Model(image, layers.Dense(2)(build()(image)))
    with pytest.raises(ValueError, match="Expected a functional CvT"):
        describe(outer)


# JSON


def json_round_trip(values):
    return json.loads(json.dumps(values))


DESCRIBED = {
    "a classifier": described_model,
    "logits of five channels": lambda: build(
        classifier_activation=None,
        include_preprocessing=False,
        input_shape=(32, 40, 5),
    ),
    "a backbone": lambda: build(include_top=False),
    "layers in front": lambda: build(
        input_tensor=layers.Rescaling(255.0)(keras.Input((32, 40, 3)))
    ),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_json_restores_the_description(name):
    described = DESCRIBED[name]().description
    assert ModelDescription.from_dict(json_round_trip(described.to_dict())) == described


@any_backend
def test_the_builder_arguments_build_the_same_network():
    model = described_model()
    again = keras_cvt.CvT(**model.description.builder_arguments())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(to_numpy(again(IMAGES)), to_numpy(model(IMAGES)))
    assert again.name == "tiny"


def test_there_are_no_builder_arguments_without_a_network_or_a_head(body):
    described = build().description
    for incomplete in (described.replace(config=None), body.description):
        with pytest.raises(ValueError, match="network with a head. Received"):
            incomplete.builder_arguments()


DESCRIPTION = ModelDescription(
    name="tiny",
    config=CONFIG,
    image_size=(None, None),
    channels=3,
    include_preprocessing=True,
    eval_transform=EvalTransform((48, 64), None),
    outputs="probabilities",
    activation="softmax",
    classes=3,
    class_names=NAMES,
    layers_in_front=("flip",),
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", 5),
        ("config", "text"),
        ("config", 0),
        ("config", []),
        ("config", {}),
        ("config", {"stages": 5}),
        ("config", {"stages": [{"embed_dim": 8}]}),
        ("input", None),
        ("input", "text"),
        ("input", []),
        ("outputs", "scores"),
        ("outputs", ["logits"]),
        ("activation", 5),
        ("classes", -1),
        ("classes", "3"),
        ("classes", True),
        ("classes", None),
        ("class_names", 5),
        ("class_names", "abc"),
        ("class_names", ["ant"]),
        ("class_names", {"ant": 0, "bee": 1, "cat": 2}),
        ("source_weights", ["cvt13"]),
        ("input.image_size", None),
        ("input.image_size", 5),
        ("input.image_size", [32]),
        ("input.image_size", [32, 0]),
        ("input.image_size", [32, "40"]),
        ("input.channels", None),
        ("input.channels", 0),
        ("input.channels", 3.0),
        ("input.include_preprocessing", "yes"),
        ("input.include_preprocessing", None),
        ("input.eval_transform", None),
        ("input.eval_transform", "text"),
        ("input.eval_transform", {"image_size": [0, 1], "crop_ratio": 1}),
        ("input.eval_transform", {"image_size": [1, 1], "crop": 1}),
        ("input.layers_in_front", 5),
        ("input.layers_in_front", "flip"),
        ("input.layers_in_front", [5]),
    ],
)
def test_a_field_of_a_wrong_type_or_value_is_a_value_error(field, value):
    values = json_round_trip(DESCRIPTION.to_dict())
    assert ModelDescription.from_dict(values) == DESCRIPTION
    *outer, name = field.split(".")
    (values["input"] if outer else values)[name] = value
    with pytest.raises(ValueError):
        ModelDescription.from_dict(values)


@pytest.mark.parametrize("values", [None, 5, "text", [], {}, [["input", {}]]])
def test_json_of_a_wrong_form_is_a_value_error(values):
    with pytest.raises(ValueError):
        ModelDescription.from_dict(values)


@pytest.mark.parametrize(
    "field", ["input", "outputs", "input.image_size", "input.channels"]
)
def test_a_missing_field_is_a_value_error(field):
    values = copy.deepcopy(DESCRIPTION.to_dict())
    *outer, name = field.split(".")
    del (values["input"] if outer else values)[name]
    with pytest.raises(ValueError, match="KeyError.*Received"):
        ModelDescription.from_dict(values)


def test_metadata_of_version_0_1_0_is_read():
    described = ModelDescription.from_dict(
        {
            "name": "tiny",
            "input": {
                "image_size": [32, 40],
                "channels": 3,
                "range": [0, 255],
                "eval_transform": {"image_size": [32, 40], "crop_ratio": 0.9},
            },
            "outputs": "probabilities",
            "labels": list(NAMES),
        }
    )
    assert described.class_names == NAMES
    assert (described.classes, described.include_preprocessing) == (3, True)
    assert described.config is None


def test_replace_checks_the_new_values():
    assert DESCRIPTION.replace(name="other").name == "other"
    with pytest.raises(ValueError, match="Received"):
        DESCRIPTION.replace(classes=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        DESCRIPTION.classes = 5


def test_images_of_another_size_do_not_change_the_description():
    model = build(input_shape=(None, None, 3))
    described = model.description
    model(normal((1, 64, 32, 3)))
    assert model.description == described
