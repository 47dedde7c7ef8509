"""What version 0.1.0 saved is loaded for good, and computes what it computed then."""

import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from hub_client import loopback
from image_folders import write_image

import keras_cvt
from keras_cvt import StageConfig, data, deploy, hub, training
from keras_cvt.checkpoints import load_checkpoint
from keras_cvt.preprocessing import EvalTransform

SAVED = Path(__file__).parent / "data" / "saved_by_0_1_0"
CONFIG = keras_cvt.CvTConfig(
    (
        StageConfig(8, 1, 1, 7, 4, 2),
        StageConfig(12, 2, 2, 3, 2, 1, mlp_ratio=2.0, cls_token=True),
    )
)
MIXED = keras_cvt.CvTConfig(
    (
        StageConfig(8, 1, 1, 4, 4, 0, projection="avg"),
        StageConfig(
            12, 1, 2, 3, 2, 1, projection="linear", qkv_bias=False, cls_token=True
        ),
    )
)
LABELS = ("ant", "bee", "crane fly")
TRANSFORM = EvalTransform((40, 48), 0.9)

any_backend = pytest.mark.any_backend


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a folder with the files, to read."""
    folder = tmp_path_factory.mktemp("saved")
    shutil.unpack_archive(SAVED / "files.zip", folder)
    return folder


@pytest.fixture(scope="module")
def expected():
    with np.load(SAVED / "expected.npz") as archive:
        return dict(archive)


def images(expected):
    return expected["images"].astype("float32")


def assert_computes(model, x, outputs):
    found = model.predict(x, verbose=0)
    np.testing.assert_allclose(found, outputs, rtol=0, atol=1e-5)


def assert_is_the_classifier(model, expected, name="classifier"):
    assert_computes(model, images(expected), expected[name])
    assert model.labels == LABELS
    assert model.eval_transform == TRANSFORM


# Whole models.
@any_backend
@pytest.mark.parametrize(
    "name", ["classifier", "logits", "backbone", "fused", "quantized", "lora", "grey"]
)
def test_a_model_computes_and_knows_what_it_did(saved, expected, name):
    model = keras.models.load_model(saved / f"{name}.keras")
    assert isinstance(model, keras_cvt.CvTModel)
    x = images(expected)
    assert_computes(model, x[..., :1] / 255 if name == "grey" else x, expected[name])
    assert model.cvt_config == CONFIG
    assert model.labels == (None if name == "backbone" else LABELS)
    assert model.eval_transform == TRANSFORM


@any_backend
def test_a_simplified_model_computes_and_knows_what_it_did(saved, expected):
    model = keras.models.load_model(saved / "simplified.keras")
    assert_computes(model, images(expected), expected["simplified"])
    sizes = {"emb_dim": 8, "heads": 1, "depth": 1, "mlp_mult": 1}
    same = keras_cvt.CvTSimplified(
        classes=3, **{f"s{i}_{n}": v for i in (1, 2, 3) for n, v in sizes.items()}
    )
    assert model.cvt_config == same.cvt_config
    assert model.labels is None


@any_backend
@pytest.mark.parametrize("name", ["layers", "fused_pyramid"])
def test_a_functional_model_of_our_layers_computes_what_it_did(saved, expected, name):
    model = keras.models.load_model(saved / f"{name}.keras")
    found = model.predict(images(expected), verbose=0)
    outputs = {
        key.removeprefix(f"{name}/"): value
        for key, value in expected.items()
        if key.startswith(f"{name}/")
    }
    assert found.keys() == outputs.keys()
    for key, value in outputs.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-5, err_msg=key)


@any_backend
def test_the_public_layers_of_then_are_those_of_today(saved):
    model = keras.models.load_model(saved / "layers.keras")
    loaded = {type(layer) for layer in model.layers}
    for name in (
        "ClassToken",
        "ConvAttention",
        "ConvEmbed",
        "ConvProjection",
        "ConvTransformerBlock",
        "ConvTransformerStage",
        "DropPath",
        "ImagePreprocessing",
        "MLP",
    ):
        assert getattr(keras_cvt.layers, name) in loaded


@any_backend
def test_a_compiled_model_goes_on_with_its_optimizer(saved, expected):
    model = keras.models.load_model(saved / "logits.keras")
    optimizer = model.optimizer
    assert isinstance(optimizer, training.AdamW)
    options = optimizer.get_config()
    assert options["weight_decay"] == 0.05
    assert options["no_decay"] == ["bias", "gamma", "beta", "token"]
    sums = [np.abs(keras.ops.convert_to_numpy(v)).sum() for v in optimizer.variables]
    np.testing.assert_allclose(sums, expected["optimizer"], rtol=1e-5)
    logs = model.train_on_batch(
        images(expected), np.eye(3, dtype="float32"), return_dict=True
    )
    assert np.isfinite(logs["loss"]) and "accuracy" in logs
    assert int(optimizer.iterations) == 2


@any_backend
def test_a_quantized_model_stays_quantized(saved):
    model = keras.models.load_model(saved / "quantized.keras")
    assert "int8" in {str(variable.dtype) for variable in model.variables}


# Weights alone.
def as_checkpoint(path):
    return keras_cvt.CvT(CONFIG, weights=path, classes=3)


def into_a_model(path):
    model = keras_cvt.CvT(CONFIG, classes=3)
    assert load_checkpoint(model, path).missing == ()
    return model


def as_keras_does(path):
    model = keras_cvt.CvT(CONFIG, classes=3)
    model.load_weights(path)
    return model


@any_backend
@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("classifier.weights.h5", as_keras_does),
        ("classifier.weights.h5", into_a_model),
        ("classifier.weights.h5", as_checkpoint),
        ("official.safetensors", into_a_model),
        ("official.safetensors", as_checkpoint),
        ("page", into_a_model),
        ("page/model.weights.h5", as_keras_does),
    ],
)
def test_weights_fit_a_new_model(saved, expected, name, load):
    model = load(saved / name)
    assert_computes(model, images(expected), expected["classifier"])


@any_backend
def test_a_configuration_is_read(saved):
    assert keras_cvt.CvTConfig.from_json(saved / "config.json") == CONFIG


@any_backend
def test_a_folder_for_transformers_brings_all_it_knows(saved, expected):
    model = keras_cvt.CvT(CONFIG, weights=saved / "transformers", classes=3)
    assert_is_the_classifier(model, expected, "transformers")
    assert model.cvt_config == CONFIG.with_overrides(activation="gelu")


# Pages of the Hub.
@any_backend
def test_a_pages_folder_brings_all_it_knows(saved, expected):
    model = keras_cvt.CvT(CONFIG, weights=saved / "page", classes=3)
    assert_is_the_classifier(model, expected)
    mixed = keras_cvt.CvT(MIXED, weights=saved / "page_avg", classes=3)
    assert_computes(mixed, images(expected), expected["page_avg"])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def server(saved, tmp_path, monkeypatch):
    repos = {
        "me/tiny": contents(saved / "page"),
        "me/avg": contents(saved / "page_avg"),
    }
    with loopback(tmp_path, monkeypatch, repos) as server:
        yield server


@any_backend
def test_a_page_is_loaded_from_the_hub(server, expected):
    model = hub.load("me/tiny")
    assert_is_the_classifier(model, expected)
    assert model.cvt_config == CONFIG
    assert model.name == "tiny"
    assert hub.load_labels("me/tiny") == LABELS


@any_backend
def test_a_page_that_transformers_lacks_is_loaded_from_the_hub(server, expected):
    model = hub.load("me/avg")
    assert_computes(model, images(expected), expected["page_avg"])
    assert model.cvt_config == MIXED
    assert model.eval_transform == EvalTransform((224, 224), 0.875)


@any_backend
def test_a_page_is_written_over(saved, tmp_path):
    page = shutil.copytree(saved / "page", tmp_path / "page")
    model = keras_cvt.CvT(CONFIG, weights=page, classes=3, name="tiny")
    hub.write_folder(model, page, repo_id="me/tiny")
    assert keras_cvt.CvT(CONFIG, weights=page, classes=3).labels == LABELS


@any_backend
def test_what_was_released_is_not_done_again(saved, tmp_path, monkeypatch):
    for name in ("avg.safetensors", "reference.npz", "page_avg.json"):
        shutil.copy(saved / name, tmp_path)
    shutil.copytree(saved / "page_avg", tmp_path / "page_avg")
    monkeypatch.chdir(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = hub.release(
        "avg.safetensors",
        "me/avg",
        "page_avg",
        config=MIXED,
        reference="reference.npz",
        about=hub.About(
            description="Three insects.",
            license="mit",
            datasets=("me/insects",),
            tags=("insects",),
            evaluations=(hub.Evaluation("Insects", "me/insects", "accuracy", 0.75),),
        ),
        dry_run=True,
    )
    record = json.loads((tmp_path / "page_avg.json").read_text())
    # Version 0.1.0 pushed no Spaces.
    assert dataclasses.asdict(done) == record | {"artefacts": (), "space": None}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


# Training runs.
AUGMENTATION = data.Augmentation(
    crop_scale=None, crop_padding=2, rand_augment=0, random_erasing=0, mixup=0, cutmix=0
)
RECIPES = {
    "run": training.Recipe(
        image_size=32,
        batch_size=4,
        epochs=4,
        learning_rate=5e-3,
        learning_rate_batch=4,
        warmup_epochs=1,
        drop_path_rate=0.0,
        augmentation=AUGMENTATION,
    ),
    "run_finished": training.Recipe(
        optimizer="sgd",
        image_size=32,
        batch_size=4,
        epochs=2,
        learning_rate=5e-3,
        learning_rate_batch=4,
        warmup_epochs=0,
        augmentation=AUGMENTATION,
    ),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Return what the runs were trained on."""
    root = tmp_path_factory.mktemp("photos")
    seed = 0
    for split, count in (("train", 4), ("validation", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                seed += 1
                write_image(root / split / name / f"{i}.png", seed, (32, 32))
    return root


@pytest.fixture(params=RECIPES)
def resumed(request, saved, photos, tmp_path):
    """Return a run's name, the run, its model and history after going on."""
    recipe = RECIPES[request.param]
    folder = shutil.copytree(saved / request.param, tmp_path / "run")
    # Settings as they are written today must equal those that were.
    run = training.Run(
        folder,
        {
            "model": CONFIG.to_dict(),
            "recipe": recipe.to_dict(),
            "batch_size": 4,
            "seed": 0,
            "classes": ("cat", "dog"),
        },
        resume=True,
    )
    model = keras_cvt.CvT(CONFIG, classes=2, classifier_activation=None)
    splits = [data.open_source(photos, split) for split in ("train", "validation")]
    return request.param, run, model, training.fit(model, recipe, *splits, run)


def test_a_run_ends_as_it_would_have_then(resumed, expected):
    name, run, model, history = resumed
    losses = [[row["loss"], row["val_loss"]] for row in history]
    np.testing.assert_allclose(losses, expected[f"{name}/losses"], rtol=1e-4)
    outputs = model.predict(images(expected), verbose=0)
    np.testing.assert_allclose(outputs, expected[f"{name}/last"], rtol=0, atol=1e-4)
    assert run.finished
    assert not list(run.folder.glob("resume-*"))


@any_backend
def test_the_recipe_of_a_run_is_read(saved):
    for name, recipe in RECIPES.items():
        settings = json.loads((saved / name / "run.json").read_text())
        assert training.Recipe.from_dict(settings["recipe"]) == recipe


@any_backend
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("file", ["best", "last"])
def test_the_models_of_a_run_are_loaded(saved, name, file):
    model = keras.models.load_model(saved / name / f"{file}.keras")
    kind = {"run": training.AdamW, "run_finished": training.SGD}[name]
    assert isinstance(model.optimizer, kind)
    assert model.cvt_config == CONFIG
    assert model.labels == ("cat", "dog")
    assert model.eval_transform == EvalTransform((32, 32), None)


@any_backend
def test_the_last_model_of_a_finished_run_computes_what_it_did(saved, expected):
    model = keras.models.load_model(saved / "run_finished" / "last.keras")
    assert_computes(model, images(expected), expected["run_finished/last"])


# Exported files.
EXPORTED = {
    "model.tflite": "litert",
    "saved_model": "tf_saved_model",
    "model.onnx": "onnx",
    "model.xml": "openvino",
}


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_file_says_what_it_said(saved, name):
    metadata = deploy.read_metadata(saved / "exported" / name)
    assert metadata == {
        "labels": list(LABELS),
        "input": {
            "layout": "NHWC",
            "batch_size": 1 if name == "model.tflite" else None,
            "image_size": [40, 48],
            "channels": 3,
            "range": [0, 255],
            "eval_transform": TRANSFORM.to_dict(),
        },
        "outputs": "probabilities",
        "source_weights": "made up",
        "quantization": None,
        "fused": True,
        "versions": {"keras_cvt": "0.1.0", "keras": "3.15.1", "tensorflow": "2.21.0"},
    }


@pytest.mark.parametrize(("name", "format"), EXPORTED.items())
def test_an_exported_file_computes_what_its_model_does(saved, expected, name, format):
    model = keras.models.load_model(saved / "classifier.keras")
    result = deploy.verify(model, saved / "exported" / name, expected["images"])
    assert result.passed and result.max_difference <= 2e-5
    assert result.format == format and result.quantization is None
