"""What a training run writes, what it refuses, and when it stops."""

import errno
import json
import os
import shutil
import sys
import zipfile

import keras
import numpy as np
import pytest

from keras_cvt._utils import files
from keras_cvt.training import Run

any_backend = pytest.mark.any_backend

IMAGES = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)).astype("float32")
LABELS = np.arange(8) % 3


@pytest.fixture
def model():
    # Any model of Keras: a run does not look into it.
    layers = [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
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


@any_backend
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


@any_backend
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


@any_backend
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


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_what_a_kill_left_half_written_is_removed_and_nothing_else(tmp_path):
    run = Run(tmp_path, {})
    for name in (".writing-killed", ".writing-writes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".lock").touch()
    with files.lock(tmp_path / ".writing-writes" / ".lock"):
        run.finish()
        assert [p.name for p in tmp_path.glob(".*")] == [".writing-writes"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_two_processes_do_not_train_in_one_folder(tmp_path):
    (tmp_path / ".lock").touch()
    # As another process would hold it.
    with files.lock(tmp_path / ".lock"):
        with pytest.raises(ValueError, match="Another process has the run in .* Wait"):
            Run(tmp_path, {})
        (tmp_path / "log.csv").write_text("epoch,loss\n0,1.0\n")
        (tmp_path / "run.json").write_text("{}")
        run = Run(tmp_path, {}, resume=True)
        assert len(run.history()) == 1
        for train in (run.callbacks, lambda: run.record({}, {})):
            with pytest.raises(
                ValueError, match="Another process has the run in .* Wait"
            ):
                train()
    run.callbacks()
    Run(tmp_path, {}, resume=True).callbacks()
    # An idle notebook does not keep the folder.
    run.release()
    with files.lock(tmp_path / ".lock") as free:
        assert free
    run.finish()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_a_folder_that_was_deleted_is_locked_again(tmp_path):
    folder = tmp_path / "run"
    Run(folder, {})
    shutil.rmtree(folder)
    run = Run(folder, {})
    with files.lock(folder / ".lock") as free:
        assert free is False
    run.finish()


def test_a_disk_that_is_full_is_not_a_damaged_resume_point(
    model, tmp_path, monkeypatch
):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = Run(tmp_path, {})
    fit(model, run, epochs=1)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(OSError, match="space"):
        run.restore(model)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_resume_point_is_named_and_nothing_is_lost(model, tmp_path, damage):
    run = Run(tmp_path, {})
    fit(model, run, epochs=1)
    (point,) = tmp_path.glob("resume-*.keras")
    content = bytearray(point.read_bytes())
    content[len(content) // 2] ^= 255
    halves = {"cut": content[: len(content) // 2], "flipped": content, "empty": b""}
    point.write_bytes(halves[damage])
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    message = f"{point.name} is damaged .* in another folder. last.keras .* holds"
    with pytest.raises(ValueError, match=message):
        Run(tmp_path, {}, resume=True).restore(model)
    after = {path.name: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert after == before


def test_a_line_of_the_log_that_was_cut_is_written_again(model, tmp_path):
    run = Run(tmp_path, {})
    fit(model, run)
    whole = run.history()
    log = tmp_path / "log.csv"
    log.write_bytes(log.read_bytes()[:-9])
    run = Run(tmp_path, {}, resume=True)
    fit(model, run, initial_epoch=1)
    rows = run.history()
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[0] == whole[0] and rows[1].keys() == whole[1].keys()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
@pytest.mark.parametrize("share", [0.5, 1.001], ids=["the model", "the resume point"])
def test_a_full_disk_ends_the_run_and_it_resumes_when_there_is_space(
    model, tmp_path, share
):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    run = Run(tmp_path, {})
    fit(model, run, epochs=1)
    size = int(share * run.last.stat().st_size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            fit(model, Run(tmp_path, {}, resume=True), initial_epoch=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.glob("resume-*")] == ["resume-000001.keras"]
    assert not list(tmp_path.glob(".writing-*"))
    run = Run(tmp_path, {}, resume=True)
    assert run.restore(model) == 1
    fit(model, run, initial_epoch=1)
    assert keras.models.load_model(run.last) is not None
    assert [row["epoch"] for row in run.history()] == [0, 1]


@any_backend
def test_a_resume_finds_the_optimizer_as_the_last_epoch_left_it(model, tmp_path):
    run = Run(tmp_path, {})
    fit(model, run)
    left = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
    fit(model, Run(tmp_path / "other", {}), epochs=1)
    assert run.restore(model) == 2
    for variable, value in zip(model.optimizer.variables, left, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)


@any_backend
def test_without_validation_there_is_a_last_model_and_no_best(model, tmp_path, caplog):
    run = Run(tmp_path, {})
    model.fit(IMAGES, LABELS, epochs=1, callbacks=run.callbacks(), verbose=0)
    assert run.last.exists() and not run.best.exists()
    assert "val_accuracy is missing" in caplog.text


def test_a_run_is_not_overwritten(tmp_path):
    Run(tmp_path, {"seed": 0})
    (tmp_path / "log.csv").write_text("epoch,loss\n0,1.0\n")
    for settings in (None, {"seed": 0}):
        with pytest.raises(ValueError, match="holds a run. .*resume=True"):
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
