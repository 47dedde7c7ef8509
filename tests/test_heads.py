"""Every kind of head in every program that reads outputs: right, or refused."""

import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from command_line import run
from keras import layers
from PIL import Image
from reference import to_numpy

import keras_cvt
from keras_cvt import CvTConfig, CvTModel, StageConfig, conversion, deploy, hub
from keras_cvt.checkpoints import save_checkpoint, sources
from keras_cvt.deploy.file_format import Runtime
from keras_cvt.deploy.verification import compare
from keras_cvt.hub import card, loading
from keras_cvt.preprocessing import EvalTransform

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIG = CvTConfig((StageConfig(8, 1, 2, 7, 4, 2, cls_token=True),), activation="gelu")
SIZE = 32


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def same(x):
    return x


# Layers behind the body, what the outputs answer, what makes scores of them (None: no
# program may show scores), and which layers a checkpoint cannot express (True: none).
HEADS = {
    "softmax": ([layers.Dense(3, "softmax")], "class", same, True),
    "logits": ([layers.Dense(3)], "class", softmax, True),
    "one logit": ([layers.Dense(1)], "decisions", sigmoid, True),
    "one sigmoid": ([layers.Dense(1, "sigmoid")], "decisions", same, True),
    "sigmoids": ([layers.Dense(3, "sigmoid")], "decisions", same, True),
    "softmax over one": ([layers.Dense(1, "softmax")], "values", None, True),
    "regression": ([layers.Dense(3)], "values", None, True),
    "regression of one": ([layers.Dense(1)], "values", None, True),
    "relu": ([layers.Dense(3, "relu")], "values", None, True),
    "no head": ([], "values", None, True),
    "another name": (
        [layers.Dense(3, "sigmoid", name="my_labels")],
        "decisions",
        same,
        True,
    ),
    "Softmax": ([layers.Dense(3), layers.Softmax()], "class", same, True),
    "Activation": (
        [layers.Dense(1), layers.Activation("sigmoid")],
        "decisions",
        same,
        True,
    ),
    "Dropout behind": (
        [layers.Dense(3, "softmax"), layers.Dropout(0.5)],
        "class",
        same,
        True,
    ),
    "Dropout in front": (
        [layers.Dropout(0.5), layers.Dense(3, "softmax")],
        "class",
        same,
        True,
    ),
    "two activations": (
        [layers.Dense(3, "relu"), layers.Softmax(name="softmax")],
        "values",
        None,
        ["softmax"],
    ),
    "Rescaling behind": (
        [
            layers.Dense(3, "softmax", name="scores"),
            layers.Rescaling(2.0, name="behind"),
        ],
        "values",
        None,
        ["scores", "behind"],
    ),
    "hidden layers": (
        [
            layers.Dense(4, "relu", name="hidden1"),
            layers.Dense(4, "relu", name="hidden2"),
            layers.Dense(3, "softmax"),
        ],
        "class",
        same,
        ["hidden1", "hidden2"],
    ),
    "two outputs": ("two", "values", None, ["kind", "age"]),
}
NAMES = {name: [f"{name} {i}" for i in range(3)] for name in HEADS}
SCORED = [name for name, row in HEADS.items() if row[2]]
REFUSED = [name for name in HEADS if name not in SCORED]


def build(name):
    keras.utils.set_random_seed(0)
    body = keras_cvt.CvT(
        CONFIG, include_top=False, pooling="token", input_shape=(SIZE, SIZE, 3)
    )
    behind = HEADS[name][0]
    outputs = body.output
    if behind == "two":
        outputs = {
            "kind": layers.Dense(3, "softmax", name="kind")(outputs),
            "age": layers.Dense(1, name="age")(outputs),
        }
    else:
        for layer in behind:
            outputs = type(layer).from_config(layer.get_config())(outputs)
    model = CvTModel(body.input, outputs, name="tiny")
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if variable.path.endswith("kernel"):
            variable.assign(rng.normal(0, 0.5, variable.shape))
    if model.classes and "softmax over" not in name:
        bias = model.layers[-1].bias if hasattr(model.layers[-1], "bias") else None
        if bias is not None:
            bias.assign(np.linspace(-3, -1, model.classes))
    model.eval_transform = EvalTransform((SIZE, SIZE), None)
    if name.startswith("regression"):
        model.output_kind = "regression"
    if model.classes:
        model.class_names = NAMES[name][: model.classes]
    return model


@pytest.fixture(scope="module")
def models():
    return {name: build(name) for name in HEADS}


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype="uint8")
    Image.fromarray(pixels).save(path)
    return path


def scores_of(model, name, photo):
    """Return the right scores by class name."""
    outputs = to_numpy(model(keras_cvt.preprocess_input(photo, model), training=False))[
        0
    ]
    return dict(zip(model.class_names, HEADS[name][2](outputs), strict=True))


@pytest.mark.parametrize("name", HEADS)
def test_the_model_says_what_its_outputs_answer(models, name):
    described = models[name].description
    assert described.answers == HEADS[name][1]
    assert described.is_classifier == (HEADS[name][2] is not None)
    again = described.from_dict(json.loads(json.dumps(described.to_dict())))
    assert again.answers == described.answers
    if described.classes:
        assert described.class_names == tuple(NAMES[name][: described.classes])


# The command line


@pytest.mark.parametrize("name", HEADS)
def test_predict_shows_the_right_scores_or_refuses(models, photo, tmp_path, name):
    model = models[name]
    model.save(tmp_path / "m.keras")
    status, printed, error = run(
        "predict", photo, "--model", tmp_path / "m.keras", "--json"
    )
    if name in REFUSED:
        assert status == 1 and "Expected a classifier" in error
        return
    (row,) = json.loads(printed)
    found = {entry["label"]: entry["score"] for entry in row["predictions"]}
    assert found == pytest.approx(scores_of(model, name, photo), abs=1e-4)


# Exported files


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    """A function that exports a head as a SavedModel, once."""
    folder, written = tmp_path_factory.mktemp("exported"), {}

    def export(name):
        if name not in written:
            written[name] = folder / name.replace(" ", "_")
            deploy.export(models[name], written[name])
        return written[name]

    return export


tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports need TensorFlow"
)


@tensorflow_only
@pytest.mark.parametrize("name", HEADS)
def test_a_saved_model_classifies_rightly_or_not_at_all(models, photo, exported, name):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported(name)))
    if name in REFUSED:
        assert list(loaded.signatures) == ["serving_default"]
        return
    encoded = tf.constant([photo.read_bytes()])
    answer = loaded.signatures["classify_encoded"](encoded=encoded)
    labels = [label.decode() for label in answer["labels"].numpy()[0]]
    found = dict(zip(labels, answer["scores"].numpy()[0], strict=True))
    assert found == pytest.approx(scores_of(models[name], name, photo), abs=1e-3)


@tensorflow_only
@pytest.mark.parametrize("name", HEADS)
def test_an_exported_file_passes_its_verification(models, exported, name, monkeypatch):
    monkeypatch.setattr(deploy.verification, "_seconds", lambda run: 1.0)
    images = deploy.made_up_images(SIZE, SIZE, 3)
    result = deploy.verify(models[name], exported(name), images)
    assert result.passed, result
    answers = HEADS[name][1]
    assert (result.top1_agreement is not None) == (answers == "class")
    assert (result.threshold_agreement is not None) == (answers == "decisions")
    assert (result.relative_error is not None) == (answers == "values")


@tensorflow_only
@pytest.mark.parametrize("classes", [5, 6])
def test_the_best_five_are_compared_among_more_classes(tmp_path, monkeypatch, classes):
    monkeypatch.setattr(deploy.verification, "_seconds", lambda run: 1.0)
    model = keras_cvt.CvT(CONFIG, classes=classes, input_shape=(SIZE, SIZE, 3))
    deploy.export(model, tmp_path / "m")
    images = deploy.made_up_images(SIZE, SIZE, 3)
    result = deploy.verify(model, tmp_path / "m", images)
    assert result.top1_agreement == 1
    assert result.top5_agreement == (1 if classes > 5 else None)
    assert ("top-5" in str(result)) == (classes > 5)


@tensorflow_only
@pytest.mark.parametrize("name", ["logits", "one logit"])
def test_the_command_line_verifies_what_python_exported(
    models, exported, tmp_path, name
):
    """The command line gives scores to a model of logits. The file has none."""
    models[name].save(tmp_path / "m.keras")
    status, printed, error = run("verify", tmp_path / "m.keras", exported(name))
    assert status == 0, printed + error


@pytest.mark.parametrize("name", HEADS)
def test_a_fused_model_keeps_its_head(models, name):
    model = models[name]
    fused = deploy.fuse(model)
    images = deploy.made_up_images(SIZE, SIZE, 3, 2)
    for found, expected in zip(
        *(keras.tree.flatten(to_numpy(m(images))) for m in (fused, model)), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert fused.description.answers == HEADS[name][1]


# One of each kind of answers: the table and the verdict depend on nothing else.
@tensorflow_only
@pytest.mark.parametrize(
    "name", ["softmax", "one sigmoid", "regression", "two outputs"]
)
def test_a_benchmark_judges_every_kind_of_answers(models, name, monkeypatch):
    monkeypatch.setattr(deploy.verification, "_seconds", lambda run: 1.0)
    images = deploy.made_up_images(SIZE, SIZE, 3, 2)
    result = deploy.benchmark(models[name], images, formats=["fused"])
    assert result.passed, str(result)
    described = (HEADS[name][1] != "values") == ("same answers" in str(result))
    assert described or HEADS[name][1] == "values"


@pytest.fixture(scope="module")
def example():
    """The module `photos` of the examples, which imports no keras_cvt."""
    spec = importlib.util.spec_from_file_location("photos", EXAMPLES / "photos.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", HEADS)
def test_the_examples_show_the_right_scores_or_stop(models, photo, example, name):
    model = models[name]
    metadata = model.description.to_dict()
    if name in REFUSED:
        with pytest.raises(SystemExit, match="Expected a classifier"):
            example.check(metadata)
        return
    example.check(metadata)
    outputs = to_numpy(model(keras_cvt.preprocess_input(photo, model), training=False))[
        0
    ]
    found = dict(example.best(outputs, metadata, 5))
    assert found == pytest.approx(scores_of(model, name, photo), abs=1e-4)


# Checkpoints and the Hub


@pytest.mark.parametrize("name", HEADS)
def test_what_is_pushed_is_the_model_or_is_refused(models, tmp_path, name):
    model, (_, _, scores, expressible) = models[name], HEADS[name]
    folder = tmp_path / "page"
    if scores is None or expressible is not True:
        names = expressible if scores and expressible else ["Expected a classifier"]
        with pytest.raises(ValueError, match=".*".join(names)):
            hub.write_folder(model, folder, repo_id="me/x")
        assert not folder.exists()
        return
    hub.write_folder(model, folder, repo_id="me/x")
    loaded = loading.build(sources.resolve(folder))
    images = deploy.made_up_images(SIZE, SIZE, 3)
    expected = to_numpy(model(images, training=False))
    np.testing.assert_allclose(to_numpy(loaded(images)), expected, atol=1e-6)
    assert loaded.class_names == model.class_names
    # And converted: the same outputs, not a softmax over whatever there is.
    conversion.convert(folder, tmp_path / "m.keras")
    converted = keras.models.load_model(tmp_path / "m.keras")
    assert converted.description.answers == HEADS[name][1]
    np.testing.assert_allclose(to_numpy(converted(images)), expected, atol=1e-6)
    # transformers' pipelines choose between softmax and sigmoid by this field.
    described = json.loads((folder / "config.json").read_text())
    kinds = {"class": None, "decisions": "multi_label_classification"}
    assert described.get("problem_type") == kinds[HEADS[name][1]]


@pytest.mark.parametrize("name", HEADS)
def test_a_checkpoint_holds_all_weights_or_is_refused(models, tmp_path, name):
    model, expressible = models[name], HEADS[name][3]
    others = expressible if isinstance(expressible, list) else []
    missing = [layer for layer in others if model.get_layer(layer).weights]
    if missing:
        with pytest.raises(ValueError, match=".*".join(missing)):
            save_checkpoint(model, tmp_path / "m.safetensors")
        assert not list(tmp_path.iterdir())
        return
    save_checkpoint(model, tmp_path / "m.safetensors")
    top = {"classes": model.classes} if model.classes else {"include_top": False}
    again = keras_cvt.CvT(CONFIG, weights=tmp_path / "m.safetensors", **top)
    images = deploy.made_up_images(SIZE, SIZE, 3, 2)
    if model.classes:
        np.testing.assert_allclose(
            conversion.logits(again, images),
            conversion.logits(model, images),
            atol=1e-5,
        )


@pytest.mark.parametrize("name", [n for n in HEADS if HEADS[n][3] is not True])
def test_a_folder_that_cannot_describe_the_model_is_not_written(models, tmp_path, name):
    with pytest.raises(ValueError, match=".*".join(HEADS[name][3])):
        save_checkpoint(models[name], tmp_path / "folder", "transformers")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SCORED)
def test_the_card_says_how_to_read_the_outputs(models, name):
    described = models[name].description
    text = card.render(described, repo_id="me/x", about=card.About(), rows=[])
    one_of = "gets one of them" in text
    assert one_of == (described.answers == "class")
    if described.outputs == "logits":
        needed = "softmax" if described.answers == "class" else "sigmoid"
        assert needed in text
    elif described.answers == "decisions":
        assert "yes above 0.5" in text


def test_a_fused_network_is_refused_by_what_to_do(models, tmp_path):
    fused = deploy.fuse(models["softmax"])
    for write in (
        lambda: hub.write_folder(fused, tmp_path / "page", repo_id="me/x"),
        lambda: save_checkpoint(fused, tmp_path / "m.safetensors"),
    ):
        with pytest.raises(ValueError, match="push the model that was fused"):
            write()
    assert not list(tmp_path.iterdir())


# Converted checkpoints of others


@pytest.mark.parametrize(
    ("classes", "problem_type", "activation", "outputs"),
    [
        (3, None, "softmax", "probabilities"),
        (3, "single_label_classification", "softmax", "probabilities"),
        (3, "multi_label_classification", "sigmoid", "probabilities"),
        (3, "regression", "linear", "regression"),
        (1, None, "linear", "logits"),
        (1, "single_label_classification", "linear", "logits"),
        (1, "multi_label_classification", "sigmoid", "probabilities"),
        (1, "regression", "linear", "regression"),
    ],
)
def test_a_checkpoint_of_transformers_keeps_its_kind_of_outputs(
    tmp_path, classes, problem_type, activation, outputs
):
    model = keras_cvt.CvT(CONFIG, classes=classes, classifier_activation=None)
    save_checkpoint(model, tmp_path / "folder", "transformers")
    path = tmp_path / "folder" / "config.json"
    described = json.loads(path.read_text())
    # As transformers would have written it.
    del described["keras_cvt"]
    described.pop("problem_type", None)
    path.write_text(json.dumps(described | {"problem_type": problem_type}))
    loaded = loading.build(sources.resolve(tmp_path / "folder"))
    conversion.convert(tmp_path / "folder", tmp_path / "m.keras")
    converted = keras.models.load_model(tmp_path / "m.keras")
    for found in (loaded.description, converted.description):
        assert (found.activation, found.outputs) == (activation, outputs)


def test_one_label_is_not_converted_into_a_softmax(tmp_path):
    model = keras_cvt.CvT(CONFIG, classes=1, classifier_activation=None)
    save_checkpoint(model, tmp_path / "m.safetensors")
    # The official layout means the other activation.
    path = tmp_path / "m.safetensors"
    conversion.convert(path, tmp_path / "m.keras", CONFIG, CONFIG.activation)
    images = deploy.made_up_images(SIZE, SIZE, 3)
    converted = keras.models.load_model(tmp_path / "m.keras")
    found, expected = (to_numpy(m(images)) for m in (converted, model))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_unknown_problem_type_is_refused(tmp_path):
    save_checkpoint(
        keras_cvt.CvT(CONFIG, classes=3), tmp_path / "folder", "transformers"
    )
    path = tmp_path / "folder" / "config.json"
    described = json.loads(path.read_text())
    del described["keras_cvt"]
    path.write_text(json.dumps(described | {"problem_type": "ranking"}))
    with pytest.raises(ValueError, match="problem_type among.*Received: ranking"):
        sources.resolve(tmp_path / "folder")


# Verdicts: what people use decides


def verdict(described, expected, found, quantization):
    expected, found = ([np.asarray(a, "float32")] for a in (expected, found))
    return compare(
        keras.Sequential([layers.Flatten()]),
        expected,
        np.zeros((len(expected[0]), 4, 4, 3), "float32"),
        "file",
        Runtime("keras", len(expected[0]), lambda images: found),
        {"quantization": quantization, **described},
        0,
    )


RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (200, 1))
MANY = RNG.normal(0, 2, (200, 4))
SIGMOID = {"outputs": "probabilities", "activation": "sigmoid"}
LOGIT = {"outputs": "logits", "activation": "linear"}
NUMBERS = {"outputs": "regression", "activation": "linear"}
FEATURES = {"outputs": "features", "activation": None}
AGES = RNG.uniform(20, 60, (200, 1)) * [1.0, 0.001]
MAPS = RNG.normal(0, 1, (8, 4, 4, 5))
# Kind of outputs, the model's, the file's, quantization, and whether it passes.
VERDICTS = {
    "one logit, the same": (LOGIT, LOGITS, LOGITS, None, True),
    "one logit, rounded": (LOGIT, LOGITS, LOGITS + 5e-5, None, True),
    "one logit, borderline": (LOGIT, [[1e-5]], [[-1e-5]], None, True),
    "one logit, off": (LOGIT, LOGITS, LOGITS + 1e-3, None, False),
    "one logit, int8 rounded": (LOGIT, LOGITS, LOGITS * 1.1, "int8", True),
    "one logit, all flipped": (LOGIT, LOGITS, -LOGITS, "int8", False),
    "one logit, shifted": (LOGIT, LOGITS, LOGITS + 0.5, "int8", False),
    "one logit, always yes": (LOGIT, LOGITS, abs(LOGITS), "dynamic_int8", False),
    "sigmoid, the same": (SIGMOID, sigmoid(LOGITS), sigmoid(LOGITS), None, True),
    "sigmoid, saturated": (
        SIGMOID,
        sigmoid(LOGITS * 10),
        sigmoid(LOGITS * 10 + 2e-5),
        None,
        True,
    ),
    "sigmoid, off": (SIGMOID, sigmoid(LOGITS), sigmoid(LOGITS + 1e-3), None, False),
    "sigmoid, flipped": (SIGMOID, sigmoid(LOGITS), sigmoid(-LOGITS), "int8", False),
    "sigmoid, no longer yes": (
        SIGMOID,
        0.5 + 0.2 * sigmoid(LOGITS),
        0.5 - 0.2 * sigmoid(LOGITS),
        "dynamic_int8",
        False,
    ),
    "sigmoids, the same": (SIGMOID, sigmoid(MANY), sigmoid(MANY), None, True),
    "sigmoids, one column flipped": (
        SIGMOID,
        sigmoid(MANY),
        sigmoid(MANY * [1, 1, 1, -1]),
        "int8",
        False,
    ),
    # The best of the columns stays the same.
    "sigmoids, all shifted": (SIGMOID, sigmoid(MANY), sigmoid(MANY + 2), "int8", False),
    "regression, the same": (NUMBERS, AGES, AGES * (1 + 1e-5), None, True),
    "regression, float16": (NUMBERS, AGES, AGES * (1 + 1e-3), "float16", True),
    "regression, off": (NUMBERS, AGES, AGES * (1 + 1e-3), None, False),
    "regression, int8 rounded": (NUMBERS, AGES, AGES * 1.05, "int8", True),
    # Beside ages, the other number is small.
    "regression, the small one off": (NUMBERS, AGES, AGES * [1, 1.5], None, False),
    "regression, int8 small one off": (NUMBERS, AGES, AGES * [1, 1.5], "int8", False),
    # Its cosine is 1.
    "regression, doubled": (NUMBERS, AGES, AGES * 2, "dynamic_int8", False),
    "regression, zero": (NUMBERS, AGES * 0, AGES * 0, "int8", True),
    "regression, NaN": (NUMBERS, AGES, AGES * np.nan, "int8", False),
    "features, the same": (FEATURES, MAPS, MAPS + 1e-5, None, True),
    "features, off": (FEATURES, MAPS, MAPS + 1e-2, None, False),
    "features, int8 rounded": (FEATURES, MAPS, MAPS + 0.05, "int8", True),
    "features, doubled": (FEATURES, MAPS, MAPS * 2, "int8", False),
    "features, NaN": (FEATURES, MAPS, MAPS * np.nan, None, False),
    "one logit, NaN": (LOGIT, LOGITS, LOGITS * np.nan, "int8", False),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_is_about_what_people_use(name, monkeypatch):
    monkeypatch.setattr(deploy.verification, "_seconds", lambda run: 1.0)
    *arguments, passed = VERDICTS[name]
    result = verdict(*arguments)
    assert result.passed is passed, result
    assert ("FAILED" in str(result)) is not passed


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_each_of_two_outputs_is_judged_by_its_own_size(monkeypatch, quantization):
    monkeypatch.setattr(deploy.verification, "_seconds", lambda run: 1.0)
    large, small = 1e4 * MAPS, 0.01 * RNG.normal(0, 1, (8, 3))
    arrays = [large.astype("float32"), small.astype("float32")]
    for factor, passed in ((1.0, True), (2.0, False), (np.nan, False)):
        result = compare(
            keras.Sequential([layers.Flatten()]),
            arrays,
            np.zeros((8, 4, 4, 3), "float32"),
            "file",
            Runtime("keras", 8, lambda images, f=factor: [arrays[0], f * arrays[1]]),
            {"quantization": quantization, **FEATURES},
            0,
        )
        assert result.passed is passed
