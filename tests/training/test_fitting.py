"""`fit` trains what the recipe says, and a run resumes with what it began with."""

import dataclasses
import json
import os
import shutil
import sys

import keras
import numpy as np
import pytest
from image_folders import write_folder

import keras_cvt
from keras_cvt import StageConfig, data, training

tf = pytest.importorskip("tensorflow")
# The others test what no backend changes, and JAX compiles for half a minute each.
any_backend = pytest.mark.any_backend

CONFIG = keras_cvt.CvTConfig(
    (
        StageConfig(8, 1, 1, 3, 2, 1),
        StageConfig(16, 2, 2, 3, 2, 1, cls_token=True, drop_path_rate=0.3),
    )
)
RECIPE = dataclasses.replace(
    training.FINE_TUNING["flowers"], image_size=16, steps=4, drop_path_rate=0.3
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("photos"), count=4)


class Killed(Exception):
    """What a test raises to stop a training."""


class StoppedRun(training.Run):
    """A run that is killed after its first epoch."""

    def callbacks(self):
        def kill(epoch, logs):
            raise Killed

        return [*super().callbacks(), keras.callbacks.LambdaCallback(on_epoch_end=kill)]


def fit(run, photos, recipe=RECIPE, *, config=CONFIG, frozen=0, names=None, **options):
    share = options.pop("validation_split", None)
    images = data.open_source(
        photos, "train", class_names=names, validation_split=share
    )
    held_out = data.open_source(
        *(photos, "validation"), class_names=images.class_names, validation_split=share
    )
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(
        config,
        classes=len(images.class_names),
        classifier_activation=options.pop("activation", None),
    )
    training.freeze_stages(model, frozen)
    options = {"batch_size": 4, "verbose": 0, **options}
    return model, training.fit(model, recipe, images, held_out, run, **options)


@pytest.fixture(scope="module")
def began(photos, tmp_path_factory):
    """Return the folder of a run that was killed after its first epoch."""
    folder = tmp_path_factory.mktemp("began") / "run"
    with pytest.raises(Killed):
        fit(StoppedRun(folder), photos, use_ema=True)
    return folder


@pytest.fixture
def run(began, tmp_path):
    """Return a copy of that run, to resume."""
    return training.Run(shutil.copytree(began, tmp_path / "run"), resume=True)


def recorded(run):
    return json.loads((run.folder / "run.json").read_text())


# The recipe's drop path.
@pytest.mark.parametrize("rate", [0.1, 0.0])
def test_a_recipe_does_not_train_with_another_drop_path(photos, tmp_path, rate):
    recipe = dataclasses.replace(RECIPE, drop_path_rate=rate)
    message = (
        f"drop_path_rate={rate}, the model was built with drop_path_rate=0.3. .*"
        r"`dataclasses.replace\(recipe, drop_path_rate=None\)`"
    )
    with pytest.raises(ValueError, match=message):
        fit(training.Run(tmp_path / "run"), photos, recipe)
    assert not (tmp_path / "run" / "last.keras").exists()


def test_a_trainer_has_the_recipes_optimizer(photos, tmp_path):
    def trainer(model):
        other = keras.Model(model.input, model.output)
        other.compile("adam", "mse")
        return other

    with pytest.raises(ValueError, match="compiled with `model.optimizer`"):
        fit(training.Run(tmp_path / "run"), photos, trainer=trainer)


@pytest.mark.parametrize("rate", [0.3, None])
def test_run_json_and_the_network_have_the_same_drop_path(photos, tmp_path, rate):
    recipe = dataclasses.replace(RECIPE, drop_path_rate=rate, steps=2)
    run = training.Run(tmp_path / "run")
    fit(run, photos, recipe)
    record = recorded(run)["fit"]
    assert record["recipe"]["drop_path_rate"] == rate
    assert record["network"]["config"]["stages"][-1]["drop_path_rate"] == 0.3
    last = keras.models.load_model(run.last)
    assert last.cvt_config.stages[-1].drop_path_rate == 0.3


# What a run records.
def test_a_run_records_what_it_depends_on_without_being_told(run):
    record = recorded(run)["fit"]
    assert training.Recipe.from_dict(record["recipe"]) == RECIPE
    assert record["batch_size"] == 4 and record["seed"] == 0
    assert record["class_names"] == ["cat", "dog"]
    assert record["training_images"]["count"] == 8
    assert record["network"]["config"] == CONFIG.to_dict()
    assert record["network"]["include_preprocessing"] is True
    assert record["dtype_policy"] == "float32"
    assert record["optimizer_options"] == {"use_ema": True}
    assert record["trainable_parameters"][-1] == 2 * 16 + 2


def test_settings_of_the_caller_are_kept_beside(photos, tmp_path):
    run = training.Run(tmp_path / "run", {"experiment": 7})
    recipe = dataclasses.replace(RECIPE, steps=2)
    fit(run, photos, recipe, clipvalue=np.float32(2))
    assert recorded(run)["fit"]["optimizer_options"] == {"clipvalue": "2.0"}
    assert recorded(run)["experiment"] == 7
    with pytest.raises(ValueError, match="experiment: there 7, now 8"):
        training.Run(tmp_path / "run", {"experiment": 8}, resume=True)


def smaller(folder):
    """Return the photos without one of them."""
    other = shutil.copytree(folder, folder.parent / "smaller", dirs_exist_ok=True)
    (other / "train" / "cat" / "0.jpg").unlink()
    return other


def renamed(folder):
    """Return the photos with one under another name."""
    other = shutil.copytree(folder, folder.parent / "renamed", dirs_exist_ok=True)
    image = other / "validation" / "cat" / "0.jpg"
    if image.exists():
        image.rename(image.with_name("9.jpg"))
    return other


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"seed": 1}, "seed: there 0, now 1"),
        ({"batch_size": 2}, "batch_size: there 4, now 2"),
        (
            {"recipe": dataclasses.replace(RECIPE, learning_rate=1.0)},
            "recipe.learning_rate: there 0.003, now 1.0",
        ),
        (
            {"recipe": dataclasses.replace(RECIPE, drop_path_rate=None)},
            "recipe.drop_path_rate: there 0.3, now None",
        ),
        (
            {"config": CONFIG.with_overrides(drop_path_rate=0.1)},
            "network.config.stages.1.drop_path_rate: there 0.3, now 0.1",
        ),
        ({"use_ema": False}, "optimizer_options.use_ema: there True, now None"),
        (
            {"global_clipnorm": 1.0},
            "optimizer_options.global_clipnorm: there None, now 1.0",
        ),
        ({"frozen": 1}, r"trainable_parameters: there \[1376, .*\], now \[0, "),
        ({"names": ("dog", "cat")}, "class_names: there .*'cat', 'dog'.*, now .*'dog'"),
        (
            {"activation": "softmax"},
            "network.activation: there 'linear', now 'softmax'",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_resume_with_other_settings_is_refused_and_named(
    run, photos, options, difference
):
    before = {path.name: path.read_bytes() for path in run.folder.glob("*.*")}
    with pytest.raises(ValueError, match=f"started with other settings.*{difference}"):
        fit(run, photos, **{"use_ema": True, **options})
    after = {path.name: path.read_bytes() for path in run.folder.glob("*.*")}
    assert after == before


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (smaller, "start a new run in another.*images.count: there 8, now 7"),
        (renamed, "validation_images.fingerprint"),
    ],
)
def test_a_resume_with_other_images_is_refused(run, photos, change, difference):
    with pytest.raises(ValueError, match=difference):
        fit(run, change(photos), use_ema=True)


def test_a_resume_in_another_precision_is_refused(run, photos):
    before = keras.config.dtype_policy()
    training.set_precision("bfloat16")
    try:
        with pytest.raises(ValueError, match="dtype_policy: there 'float32', now"):
            fit(run, photos, use_ema=True)
    finally:
        keras.config.set_dtype_policy(before)


def test_a_run_is_resumed_after_its_images_moved(run, photos, tmp_path):
    moved = shutil.copytree(photos, tmp_path / "moved")
    model, history = fit(run, moved, use_ema=True)
    assert [row["epoch"] for row in history] == [0, 1]
    assert recorded(run)["fit"]["image_folders"][0] == str(moved / "train")
    # The averages are in the model that `fit` leaves, and in the file.
    last = keras.models.load_model(run.last)
    for a, b in zip(model.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # A kill in the last moment may have left it.
    (run.folder / "resume-000002.keras").touch()
    fit(training.Run(run.folder, resume=True), moved, use_ema=True)
    assert not list(run.folder.glob("resume-*"))


def test_a_run_whose_validation_images_are_held_out_is_resumed(photos, tmp_path):
    folder = shutil.copytree(photos / "train", tmp_path / "photos")
    with pytest.raises(Killed):
        fit(StoppedRun(tmp_path / "run"), folder, validation_split=0.25)
    moved = folder.rename(tmp_path / "moved")

    def resume(share):
        run = training.Run(tmp_path / "run", resume=True)
        return fit(run, moved, validation_split=share)[1]

    with pytest.raises(ValueError, match="training_images.*validation_images"):
        resume(0.5)
    # 4 steps of 4 of the 6 images.
    assert [row["epoch"] for row in resume(0.25)] == [0, 1, 2, 3]
    record = recorded(training.Run(tmp_path / "run", resume=True))
    assert record["fit"]["image_folders"] == [str(moved), str(moved)]


@pytest.mark.skipif(sys.platform != "linux", reason="all names are UTF-8")
def test_a_run_trains_in_and_on_folders_whose_names_are_not_utf_8(
    photos, tmp_path, caplog
):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(photos, folder / "photos")
    with pytest.raises(Killed):
        fit(StoppedRun(folder / "run"), folder / "photos")
    assert "TensorBoard's log is not written: it cannot write to a path" in caplog.text
    moved = (folder / "photos").rename(folder / "moved")
    _, history = fit(training.Run(folder / "run", resume=True), moved)
    assert [row["epoch"] for row in history] == [0, 1]


@any_backend
def test_the_same_seed_gives_the_same_training_again(began, photos, tmp_path):
    with pytest.raises(Killed):
        fit(StoppedRun(tmp_path / "run"), photos, use_ema=True)
    files = began / "last.keras", tmp_path / "run" / "last.keras"
    a, b = (keras.models.load_model(file).get_weights() for file in files)
    for one, other in zip(a, b, strict=True):
        # Threads may add up in another order.
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# Runs that version 0.1.0 began: the caller recorded the settings, or nobody.
def as_version_0_1_0(run, **settings):
    (run.folder / "run.json").write_text(json.dumps(settings))
    return training.Run(run.folder, resume=True)


def test_a_run_that_does_not_know_its_settings_is_resumed_and_completed(run, photos):
    run = as_version_0_1_0(run, model="tiny", seed=0, recipe=RECIPE.to_dict())
    _, history = fit(run, photos, use_ema=True)
    assert len(history) == 2 and run.finished
    record = recorded(run)
    assert record["model"] == "tiny"
    assert record["fit"]["batch_size"] == 4


def test_settings_that_the_caller_recorded_are_compared(run, photos):
    run = as_version_0_1_0(run, batch_size=4)
    with pytest.raises(ValueError, match="batch_size: there 4, now 2"):
        fit(run, photos, batch_size=2, use_ema=True)


@any_backend
def test_a_run_with_another_drop_path_than_its_recipes_continues(run, photos, caplog):
    recipe = dataclasses.replace(RECIPE, drop_path_rate=0.1, steps=6)
    run = as_version_0_1_0(run, recipe=recipe.to_dict())
    run = StoppedRun(run.folder, resume=True)
    with pytest.raises(Killed):
        fit(run, photos, recipe, use_ema=True)
    assert "continues with the model's rate" in caplog.text
    run = training.Run(run.folder, resume=True)
    model, history = fit(run, photos, recipe, use_ema=True)
    assert len(history) == 3
    assert model.cvt_config.stages[-1].drop_path_rate == 0.3


# What does not fit together.
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 3}, "`classes=2`. Received: a model with 3 classes"),
        ({"include_preprocessing": False}, "`include_preprocessing=True`"),
        ({"input_shape": (32, 32, 3)}, "takes images of .*image_size=16"),
        ({"include_top": False}, "Received: a model with 0 classes"),
    ],
)
def test_a_model_that_does_not_fit_the_images_is_refused(
    photos, tmp_path, options, message
):
    images = data.open_source(photos, "train")
    if options.get("include_top", True):
        options = {"classes": 2, "classifier_activation": None, **options}
    model = keras_cvt.CvT(CONFIG, **options)
    run = training.Run(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        training.fit(model, RECIPE, images, images, run, batch_size=4)


def test_what_is_no_source_and_no_run_is_refused_by_what_to_pass(photos, tmp_path):
    images = data.open_source(photos, "train")
    model = keras_cvt.CvT(CONFIG, classes=2, classifier_activation=None)
    run = training.Run(tmp_path / "run")
    for arguments, message in (
        ((tf.data.Dataset.range(2), images, run), "`training` must.*call `model.fit`"),
        ((images, None, run), "`validation` must.*Received: validation=None"),
        ((images, images, "run"), r"`run` must be .*training.Run\('run'\)"),
    ):
        with pytest.raises(ValueError, match=message):
            training.fit(model, RECIPE, *arguments)


def test_an_image_size_that_the_stride_does_not_divide_is_refused(photos, tmp_path):
    recipe = dataclasses.replace(RECIPE, image_size=18)
    with pytest.raises(ValueError, match="16 and 20. Received: image_size=18"):
        fit(training.Run(tmp_path / "run"), photos, recipe)
