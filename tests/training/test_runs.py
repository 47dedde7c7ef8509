"""What a training run writes, what it refuses, and when it stops."""

import json
import shutil

import keras
import numpy as np
import pytest

import keras_cvt
from keras_cvt import StageConfig
from keras_cvt.training import Run

pytestmark = pytest.mark.any_backend

CONFIG = keras_cvt.CvTConfig((StageConfig(8, 1, 1, 3, 2, 1, cls_token=True),))
IMAGES = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)).astype("float32")
LABELS = np.arange(8) % 3


@pytest.fixture
def model():
    model = keras_cvt.CvT(CONFIG, classes=3, classifier_activation=None)
    model.compile(
        keras.optimizers.SGD(momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return model


def fit(model, run, images=IMAGES, epochs=2, **options):
    return model.fit(
        images,
        LABELS,
        batch_size=2,
        epochs=epochs,
        shuffle=False,
        validation_data=(IMAGES, LABELS),
        callbacks=run.callbacks(),
        verbose=0,
        **options,
    )


def test_a_loss_of_nan_stops_at_its_batch(model, tmp_path):
    images = IMAGES.copy()
    images[5] = np.nan
    with pytest.raises(FloatingPointError, match="nan at batch 2 of epoch 1"):
        fit(model, Run(tmp_path, {}), images)
    assert not (tmp_path / "last.keras").exists()


def test_a_kill_before_the_log_leaves_the_best_model(model, tmp_path, monkeypatch):
    def killed(self, epoch, logs=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.callbacks.CSVLogger, "on_epoch_end", killed)
    run = Run(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        fit(model, run)
    assert run.best.exists()
    assert run.history() == []


def test_the_log_and_the_plot_show_every_epoch_once(model, tmp_path):
    run = Run(tmp_path, {})
    history = fit(model, run).history
    # An epoch that was killed after it was logged is logged again.
    run = Run(tmp_path, {}, resume=True)
    assert run.restore(model) == 2
    fit(model, run, initial_epoch=1, epochs=3)
    rows = run.history()
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[0]["val_loss"] == pytest.approx(history["val_loss"][0], rel=1e-5)
    assert run.plot().read_bytes().startswith(b"\x89PNG")


def test_the_best_model_stays_the_best_after_a_resume(model, tmp_path):
    run = Run(tmp_path, {})
    fit(model, run, epochs=1)
    best = run.best.read_bytes()
    (tmp_path / "log.csv").write_text("epoch,val_accuracy\n0,1.0\n")
    fit(model, Run(tmp_path, {}, resume=True), epochs=1)
    assert run.best.read_bytes() == best


def test_a_kill_while_the_best_model_is_written_leaves_the_one_before(
    model, tmp_path, monkeypatch
):
    run = Run(tmp_path, {})
    fit(model, run, epochs=1)
    best = run.best.read_bytes()
    (tmp_path / "log.csv").write_text("epoch,val_accuracy\n0,0.0\n")

    def killed(source, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", killed)
    model.layers[-1].bias.assign([9.0, 0.0, 0.0])  # any accuracy above 0
    with pytest.raises(KeyboardInterrupt):
        fit(model, Run(tmp_path, {}, resume=True), initial_epoch=1)
    assert run.best.read_bytes() == best
    assert run.last.read_bytes() != best


def test_a_resume_removes_what_a_kill_left_half_written(model, tmp_path):
    run = Run(tmp_path, {})
    fit(model, run, epochs=1)
    (tmp_path / ".writing-killed").mkdir()
    (tmp_path / ".writing-killed" / "best.keras").write_bytes(b"half")
    fit(model, Run(tmp_path, {}, resume=True), initial_epoch=1)
    assert not list(tmp_path.glob(".writing-*"))


def test_a_resume_finds_the_optimizer_as_the_last_epoch_left_it(model, tmp_path):
    run = Run(tmp_path, {})
    fit(model, run)
    left = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
    fit(model, Run(tmp_path / "other", {}), epochs=1)
    assert run.restore(model) == 2
    for variable, value in zip(model.optimizer.variables, left, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)


def test_without_validation_there_is_a_last_model_and_no_best(model, tmp_path, caplog):
    run = Run(tmp_path, {})
    model.fit(IMAGES, LABELS, epochs=1, callbacks=run.callbacks(), verbose=0)
    assert run.last.exists() and not run.best.exists()
    assert "val_accuracy is missing" in caplog.text


def test_a_run_is_not_overwritten(tmp_path):
    Run(tmp_path, {"seed": 0})
    (tmp_path / "log.csv").write_text("epoch,loss\n0,1.0\n")
    for settings in (None, {"seed": 0}):
        with pytest.raises(ValueError, match="holds a run. .* with `resume=True`"):
            Run(tmp_path, settings)
    with pytest.raises(ValueError, match="differ in seed: there 0, now 1"):
        Run(tmp_path, {"seed": 1}, resume=True)
    Run(tmp_path, {"seed": 0}, resume=True)
    Run(tmp_path, resume=True)
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 0}


def test_settings_that_differ_are_named_however_deep_they_lie(tmp_path):
    there = {"recipe": {"crop": [0.1, 1.0], "rate": 0.1}, "stages": [{"depth": 1}]}
    now = {"recipe": {"crop": [0.1, 1.0], "rate": 0.2}, "stages": [{"depth": 2}]}
    Run(tmp_path, there)
    (tmp_path / "log.csv").write_text("epoch,loss\n0,1.0\n")
    message = r"in recipe\.rate: there 0.1, now 0.2; stages\.0\.depth: there 1, now 2$"
    with pytest.raises(ValueError, match=message):
        Run(tmp_path, now, resume=True)
    Run(tmp_path, there, resume=True)


def test_the_key_of_the_recorded_settings_is_reserved(tmp_path):
    with pytest.raises(ValueError, match="must not have the key 'fit'"):
        Run(tmp_path, {"fit": 1})


def test_a_folder_that_cannot_be_made_is_an_error_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Run(tmp_path / "file" / "run", {})


def test_a_run_that_failed_before_its_first_epoch_does_not_keep_its_folder(tmp_path):
    Run(tmp_path, {"epochs": 2})
    Run(tmp_path, {"epochs": 3})
    assert json.loads((tmp_path / "run.json").read_text()) == {"epochs": 3}
