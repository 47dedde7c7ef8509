"""A training run's folder: what it holds, and how training resumes after a kill."""

import contextlib
import csv
import errno
import importlib.util
import json
import logging
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt._utils import files, optional, plots
from keras_cvt.data.folders import printable
from keras_cvt.training.averages import AveragedWeights, uses_averages
from keras_cvt.training.distribution import process_index_and_count, under

logger = logging.getLogger(__name__)

# The part of run.json that `training.fit` writes.
_FIT = "fit"
# A member of a resume point's archive.
_STATE = "training_state.npz"
# An error of the disk that a resume point is extracted to.
_NOT_DAMAGED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
# The locks of the runs that this process trains. A second `Run` of one folder, such
# as a notebook makes after an interrupt, shares them.
_CLAIMED: dict[Path, contextlib.ExitStack] = {}


class _Checkpoints(keras.callbacks.Callback):
    """Writes the model after every epoch, and a copy of the most accurate one.

    Writing takes longest here. Keras's `ModelCheckpoint` would write both models.

    Args:
        run: The run.
    """

    def __init__(self, run: "Run"):
        super().__init__()
        self.run = run
        accuracies = [row.get("val_accuracy", -math.inf) for row in run.history()]
        self.best_accuracy = max(accuracies, default=-math.inf)

    def on_epoch_end(self, epoch, logs=None):
        with under(None):  # only this process saves
            files.write_whole(self.run.last, self.model.save)
        accuracy = (logs or {}).get("val_accuracy")
        if accuracy is None:
            logger.warning(
                "The best model is not saved, because val_accuracy is missing. "
                "Metrics: %s",
                ", ".join(logs or {}),
            )
        elif accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            files.copy_whole(self.run.last, self.run.best)


class ResumePoint(keras.callbacks.Callback):
    """Marks an epoch as done, with all that training needs to continue after it.

    The file `resume-<epochs done>.keras` is a copy of the last model, with the
    optimizer, and with what a `.keras` file does not hold: the states of dropout's
    seeds, and with `use_ema=True` the raw weights. So a kill at any moment leaves the
    last whole epoch. Keras's `BackupAndRestore` keeps the number of the epoch in a
    second file, which a kill can leave outdated. It also cannot be asked for the epoch
    before the data is built.

    Args:
        last: File of the model, which was written at the end of this epoch.
        generator_states: States of PyTorch's generators to begin with.
    """

    def __init__(self, last: Path, generator_states: Sequence[np.ndarray] = ()):
        super().__init__()
        self.last = last
        self.generator_states = generator_states

    def on_train_begin(self, logs=None):
        # Not earlier: at its start, `fit` itself draws from them. Another machine may
        # have fewer generators.
        for generator, state in zip(_generators(), self.generator_states, strict=False):
            generator.set_state(keras.ops.convert_to_tensor(state).cpu())

    def on_epoch_end(self, epoch, logs=None):
        def write(path):
            shutil.copyfile(self.last, path)
            with zipfile.ZipFile(path, "a") as archive:
                with archive.open(_STATE, "w", force_zip64=True) as file:
                    np.savez(file, *_state(self.model))

        folder = self.last.parent
        files.write_whole(folder / f"resume-{epoch + 1:06d}.keras", write)
        for older in self.found(folder)[:-1]:
            older.unlink()

    @staticmethod
    def found(folder: Path) -> list[Path]:
        """Return the resume points in a folder, the latest one last."""
        return sorted(folder.glob("resume-*.keras"))

    @staticmethod
    def load(path: Path, model: keras.Model) -> tuple[int, list[np.ndarray]]:
        """Restore a compiled model from a resume point.

        Returns:
            Number of epochs that are done, and the states of PyTorch's generators.
        """
        state: list[np.ndarray] = []
        model.optimizer.build(model.trainable_variables)
        with tempfile.TemporaryDirectory() as folder:
            # HDF5 reads back and forth. Within an archive, each step back would read
            # it from its start again.
            try:
                with zipfile.ZipFile(path) as archive:
                    archive.extractall(folder)
            # Of a damaged archive, `zipfile` raises errors of many kinds.
            except Exception as error:
                if getattr(error, "errno", None) in _NOT_DAMAGED:
                    raise
                raise ValueError(
                    f"{path} is damaged or cannot be read ({error}), and the run "
                    "cannot continue from it. Start again in another folder. "
                    "last.keras beside it holds the model of the last epoch."
                ) from error
            model.load_weights(Path(folder, "model.weights.h5"))
            # Version 0.1.0 wrote none.
            if Path(folder, _STATE).exists():
                with np.load(Path(folder, _STATE)) as file:
                    state = [file[name] for name in file.files]
        variables = _unsaved_variables(model) if state else []
        if len(variables) > len(state):
            raise ValueError(
                f"{path} was written with another network or optimizer. Expected "
                f"{len(variables)} values beside the model. Received: {len(state)}"
            )
        for variable in variables:
            variable.assign(state.pop(0))
        return int(path.name.split("-")[1].split(".")[0]), state


def _state(model):
    """Return the values that training changes and that a `.keras` file leaves out."""
    values = [keras.ops.convert_to_numpy(v) for v in _unsaved_variables(model)]
    values += [generator.get_state().numpy() for generator in _generators()]
    # NumPy cannot read bfloat16.
    return [v.astype("float32") if v.dtype.name == "bfloat16" else v for v in values]


def _unsaved_variables(model):
    saved = {id(variable) for variable in model.weights}
    seeds = [variable for variable in model.variables if id(variable) not in saved]
    # With averages, the saved model holds those.
    return seeds + (model.trainable_variables if uses_averages(model) else [])


def _generators():
    """Return PyTorch's own generators, from which its dropout draws."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    return [torch.default_generator, *torch.cuda.default_generators]


class StopOnNaN(keras.callbacks.Callback):
    """Stops training with an error that names the batch whose loss is not finite.

    Raises:
        FloatingPointError: At the end of that batch.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        # `loss` is the mean over the epoch so far: it stays NaN or infinite.
        if loss is not None and not math.isfinite(float(loss)):
            raise FloatingPointError(
                f"The loss is {float(loss)} at batch {batch} of epoch "
                f"{self._epoch + 1}. Try a lower learning rate, a longer warm-up or "
                "gradient clipping (`global_clipnorm`). With float16, check that loss "
                "scaling is on."
            )


class Run:
    """The folder of a training run.

    It holds `run.json` (what the result depends on), `log.csv`, `best.keras`,
    `last.keras`, TensorBoard's events under `tensorboard`, and until `finish` what
    resuming needs.

    Args:
        folder: Path of the folder. It is created if it does not exist.
        settings: Anything else that the result depends on, as JSON can hold it.
            `training.fit` records its own arguments. A run is not resumed with other
            settings; None does not compare them. Defaults to `None`.
        resume: Whether to continue a run that the folder holds. Otherwise a folder
            that holds a run is refused, and nothing is overwritten. Defaults to
            `False`.

    Attributes:
        folder: Path of the folder.
        best: File of the model with the best validation accuracy.
        last: File of the model after the last epoch.
        writes: Whether this process writes. If several processes train one model, make
            the run inside of `distribute`: only the first process writes. The others
            read what they resume from, so the folder must be on a shared disk.
        resumed: Whether the folder held a run with at least one epoch.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: If the folder holds another run, or another process trains there.

    Example:
        ```python
        run = keras_cvt.training.Run("run", resume=True)
        history = keras_cvt.training.fit(model, recipe, training, validation, run)
        ```
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
    ):
        self.folder = Path(folder)
        self.best = self.folder / "best.keras"
        self.last = self.folder / "last.keras"
        self._record = self.folder / "run.json"
        self._log = self.folder / "log.csv"
        self._lock = self.folder.resolve() / ".lock"
        self._finished = self.folder / "finished"
        self.writes = process_index_and_count()[0] == 0
        self._compared = settings is not None
        self._generator_states: Sequence[np.ndarray] = ()
        # A run that failed before its first epoch has nothing that could be lost.
        self.resumed = self._record.exists() and self._has_epochs()
        if not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = _as_json(settings or {})
        if _FIT in settings:
            raise ValueError(f"`settings` must not have the key {_FIT!r}.")
        if not self.resumed:
            self._claim()
            files.write_json(self._record, settings)
            return
        if not resume:
            raise ValueError(
                f"{self.folder} already holds a run. Continue it with "
                "`training.Run(folder, resume=True)`, or choose another folder."
            )
        if self._compared:
            found = self._read()
            found.pop(_FIT, None)
            self._check_equal(found, settings)

    def record(self, settings: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        """Write to `run.json` what a training depends on; `training.fit` calls it.

        Args:
            settings: What the result depends on, as JSON can hold it.
            notes: What else to write. It may change when a run is resumed.

        Raises:
            ValueError: If the run was started with other settings. The message lists
                the differences.
        """
        if not self.writes:
            return
        self._claim()
        # Options of Keras may be NumPy's numbers.
        settings, found = _as_json(settings, default=str), self._read()
        # Version 0.1.0 left it to the caller to record these settings.
        before = found.get(_FIT, {} if self._compared else found)
        # A run without a whole epoch has nothing that could be lost.
        before = before if self._has_epochs() else {}
        common = settings.keys() & before.keys()
        self._check_equal(
            {key: before[key] for key in common}, {key: settings[key] for key in common}
        )
        files.write_json(self._record, {**found, _FIT: {**settings, **notes}})

    def _check_equal(self, found, settings):
        found, settings = dict(_flat(found)), dict(_flat(settings))
        different = sorted(
            key for key in {*found, *settings} if found.get(key) != settings.get(key)
        )
        if different:
            raise ValueError(
                f"{self.folder} holds a run that was started with other settings. "
                "Resume it with those, or start a new run in another folder. They "
                "differ in "
                + "; ".join(
                    f"{key}: there {found.get(key)!r:.200}, "
                    f"now {settings.get(key)!r:.200}"
                    for key in different
                )
            )

    def _claim(self):
        """Keep other processes out until `release`, or until this process ends."""
        if self.finished or (self._lock in _CLAIMED and self._lock.exists()):
            return
        self.release()
        self._lock.touch()
        with contextlib.ExitStack() as stack:
            free = stack.enter_context(files.lock(self._lock))
            if free is False:
                raise ValueError(
                    f"Another process has the run in {self.folder} open. Wait until it "
                    "ends, end it, or choose another folder."
                )
            if free is None:
                logger.warning(
                    "The disk of %s has no locks. Make sure that no other process "
                    "trains there.",
                    self.folder,
                )
            _CLAIMED[self._lock] = stack.pop_all()

    def release(self) -> None:
        """Let other processes have the folder; `training.fit` calls it at its end."""
        _CLAIMED.pop(self._lock, contextlib.ExitStack()).close()

    def _read(self):
        return json.loads(self._record.read_text(encoding="utf-8"))

    def _has_epochs(self):
        models = self.best.exists() or self.last.exists()
        return models or self.finished or bool(self.history())

    @property
    def finished(self) -> bool:
        """Whether `finish` was called. There is nothing left to train."""
        return self._finished.exists()

    def restore(self, model: keras.Model) -> int:
        """Restore a compiled model to the end of the last whole epoch.

        Args:
            model: A compiled model with the network and the optimizer of the run.

        Returns:
            Number of epochs that are done; 0 if there is nothing to restore. Pass it
            as `initial_epoch` to `fit` and to the data.
        """
        found = ResumePoint.found(self.folder)
        if not found:
            return 0
        done, self._generator_states = ResumePoint.load(found[-1], model)
        return done

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Return the callbacks that watch the loss and write the folder.

        With an optimizer that averages the weights (`use_ema=True`), validation, the
        best and the last model use the averages. Pass the callbacks to `Model.fit` in
        this order.
        """
        averages = AveragedWeights()
        if not self.writes:
            # Putting in the averages is a computation of all processes.
            return [StopOnNaN(), averages, averages.restore_raw()]
        self._claim()
        # A full disk may have cut its last line.
        if self._log.exists():
            rows = self._log.read_text(encoding="utf-8")
            files.write_text(self._log, rows[: rows.rfind("\n") + 1])
        writers = [
            StopOnNaN(),
            averages,
            _Checkpoints(self),
            averages.restore_raw(),
            # After the models: if a kill comes between, the log has no accuracy that
            # the best model does not have.
            keras.callbacks.CSVLogger(self._log, append=True),
        ]
        log = self.folder / "tensorboard"
        # TensorFlow does not install it, and notices only at the first epoch's end.
        if not importlib.util.find_spec("tensorboard"):
            install = optional.install_command("train")
            problem = f"it is not installed. Install it with {install}"
        elif printable(log) != str(log):
            problem = "it cannot write to a path that is not UTF-8"
        else:
            problem = ""
            writers.append(keras.callbacks.TensorBoard(log, write_graph=False))
        if problem:
            logger.warning("TensorBoard's log is not written: %s.", problem)
        # Last: it marks as done what the others have written.
        return [*writers, ResumePoint(self.last, self._generator_states)]

    def history(self) -> list[dict[str, float]]:
        """Return the logged loss and metrics, one dict per epoch."""
        if not self._log.exists():
            return []
        with self._log.open(newline="", encoding="utf-8") as file:
            rows = [_numbers(row) for row in csv.DictReader(file)]
        # An epoch that was killed after it was logged is there twice.
        return list({row["epoch"]: row for row in rows}.values())

    def plot(self) -> Path:
        """Plot loss and accuracy by epoch, and return the file, `curves.png`.

        Raises:
            ImportError: If matplotlib is missing. The message names the extra.
        """
        rows = self.history()
        epochs = [row["epoch"] + 1 for row in rows]
        figure = plots.new_figure(figsize=(9, 3.6), layout="constrained")
        for axis, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for prefix, label in (("", "training"), ("val_", "validation")):
                if rows and prefix + name in rows[0]:
                    values = [row[prefix + name] for row in rows]
                    axis.plot(epochs, values, marker="o", markersize=3, label=label)
            axis.set(xlabel="epoch", ylabel=name)
            axis.grid(alpha=0.3)
            axis.legend()
        path = self.folder / "curves.png"
        plots.save_png(figure, path)
        return path

    def finish(self) -> None:
        """Mark the run as finished, and delete what only resuming needs."""
        if not self.writes:
            return
        files.write_text(self._finished, "")
        for file in ResumePoint.found(self.folder):
            file.unlink()
        self._lock.unlink(missing_ok=True)
        self.release()


def _numbers(row):
    return {key: float(value) for key, value in row.items() if value}


def _as_json(values, default=None):
    """Return values as JSON gives them back: tuples become lists, for example."""
    return json.loads(json.dumps(dict(values), default=default))


def _flat(values, prefix="") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested dicts, and of lists of dicts, by dotted keys."""
    for key, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
