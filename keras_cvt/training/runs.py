"""A training run's folder: what it writes, and how it goes on after a kill."""

import csv
import importlib.util
import json
import logging
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_cvt import files, plots
from keras_cvt.training.distribution import alone, processes

logger = logging.getLogger(__name__)

_RUN = "run.json"
_LOG = "log.csv"
_FINISHED = "finished"


class _Checkpoints(keras.callbacks.Callback):
    """Writes the model after every epoch, and a copy of the most accurate one.

    Keras's `ModelCheckpoint` would write twice what takes longest here.

    Args:
        last: The file of the last model.
        best: The file of the one of the best validation accuracy.
        best_accuracy: That of the epochs before, if there were any.
    """

    def __init__(self, last: Path, best: Path, best_accuracy: float | None):
        super().__init__()
        self.last = last
        self.best = best
        self.best_accuracy = -math.inf if best_accuracy is None else best_accuracy

    def on_epoch_end(self, epoch, logs=None):
        with alone():
            files.write_whole(self.last, self.model.save)
        accuracy = (logs or {}).get("val_accuracy")
        if accuracy is None:
            logger.warning("No best model without val_accuracy: %s", dict(logs or {}))
        elif accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            files.copy_whole(self.last, self.best)


class ResumePoint(keras.callbacks.Callback):
    """Marks an epoch as done, with all that training needs to go on behind it.

    That is what Keras saves of a compiled model: weights, statistics, the optimizer
    and the seeds of dropout. A copy named `resume-<epochs done>.keras` holds them: a
    kill at any moment leaves the last whole epoch. Keras's `BackupAndRestore` keeps
    the epoch in a second file, which a kill can leave behind the first, and cannot be
    asked for it before the data is built.

    Args:
        last: The file of the model, which this epoch has written already.
    """

    def __init__(self, last: Path):
        super().__init__()
        self.last = last

    def on_epoch_end(self, epoch, logs=None):
        folder = self.last.parent
        files.copy_whole(self.last, folder / f"resume-{epoch + 1:06d}.keras")
        for older in self.found(folder)[:-1]:
            older.unlink()

    @staticmethod
    def found(folder: Path) -> list[Path]:
        """Return what is there, the latest last."""
        return sorted(folder.glob("resume-*.keras"))


class StopOnNaN(keras.callbacks.Callback):
    """Stops training with an error that names the batch whose loss is no number.

    Raises:
        FloatingPointError: At the end of that batch.
    """

    def __init__(self):
        super().__init__()
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss")
        # The running mean over an epoch stays no number once one loss was none.
        if loss is not None and not abs(float(loss)) < float("inf"):
            raise FloatingPointError(
                f"The loss is {float(loss)} at batch {batch} of epoch "
                f"{self._epoch + 1}. A lower learning rate, a longer warm-up or "
                "gradient clipping (`global_clipnorm`) are the usual remedies; in "
                "float16 check that the loss scale is on."
            )


class Run:
    """The folder of a training run.

    It holds `run.json` (what was asked for), `log.csv`, `best.keras`, `last.keras`,
    TensorBoard's events under `tensorboard`, and until `finish` what resuming
    needs.

    Args:
        folder: Created if need be.
        settings: What the result depends on, as JSON can hold it: configuration,
            recipe, seed, data. Going on with other settings is refused.
        resume: Whether to go on with a run that is there. Without it, a folder that
            holds a run is refused, so that nothing is overwritten.

    Attributes:
        writes: Whether this process writes. Of several that train one model (make
            the run inside `distribute`), the first does; the others read what they go
            on from, so that the folder must be on a disk that they share.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: If the folder holds another run.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        settings: Mapping[str, Any],
        resume: bool = False,
    ):
        self.folder = Path(folder)
        self.writes = processes()[0] == 0
        if not self.writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.folder / _RUN
        # As JSON gives it back, so that tuples equal lists.
        settings = json.loads(json.dumps(settings))
        # One that failed before its first epoch has nothing that could be lost.
        if not record.exists() or not self._has_epochs():
            files.write_json(record, settings)
            return
        found = json.loads(record.read_text(encoding="utf-8"))
        if not resume:
            raise ValueError(
                f"{self.folder} holds a run already: go on with it (`--resume`) or "
                "take another folder."
            )
        different = sorted(
            key for key in {*found, *settings} if found.get(key) != settings.get(key)
        )
        if different:
            raise ValueError(
                f"{self.folder} holds a run with other settings, so it cannot be gone "
                "on with. They differ in "
                + "; ".join(
                    f"{key}: there {found.get(key)!r:.200}, "
                    f"now {settings.get(key)!r:.200}"
                    for key in different
                )
            )

    def _has_epochs(self):
        written = (self.best, self.last, self.folder / _LOG)
        return any(path.exists() for path in written) or self.finished

    @property
    def finished(self) -> bool:
        """Whether `finish` was called: there is nothing to go on with."""
        return (self.folder / _FINISHED).exists()

    @property
    def best(self) -> Path:
        """The model of the best validation accuracy."""
        return self.folder / "best.keras"

    @property
    def last(self) -> Path:
        """The model after the last epoch."""
        return self.folder / "last.keras"

    def restore(self, model: keras.Model) -> int:
        """Load what the last whole epoch left into a compiled model, if there is any.

        Args:
            model: A compiled model of the run's settings.

        Returns:
            How many epochs are done: `initial_epoch` of `fit` and of the data.
        """
        found = ResumePoint.found(self.folder)
        if not found:
            return 0
        model.optimizer.build(model.trainable_variables)
        # Out of the archive first: HDF5 reads back and forth, for which an archive is
        # read from its start each time.
        with (
            tempfile.TemporaryDirectory() as folder,
            zipfile.ZipFile(found[-1]) as file,
        ):
            model.load_weights(file.extract("model.weights.h5", folder))
        return int(found[-1].name.split("-")[1].split(".")[0])

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Return what watches the loss and writes the folder; pass them to `fit`."""
        if not self.writes:
            return [StopOnNaN()]
        self._remove_left_overs()
        writers = [
            StopOnNaN(),
            _Checkpoints(self.last, self.best, self._best_accuracy()),
            # After the models: a kill between them leaves no accuracy in the log
            # that the best model does not have.
            keras.callbacks.CSVLogger(self.folder / _LOG, append=True),
        ]
        # TensorFlow does not bring it, and finds out only at the first epoch's end.
        if importlib.util.find_spec("tensorboard"):
            log = keras.callbacks.TensorBoard(
                self.folder / "tensorboard", write_graph=False
            )
            writers.append(log)
        else:
            logger.warning("No log for TensorBoard: pip install keras_cvt[train]")
        # Last: what it marks as done has been written.
        return [*writers, ResumePoint(self.last)]

    def history(self) -> list[dict[str, float]]:
        """Return what was logged, a dict an epoch, the first epoch first."""
        path = self.folder / _LOG
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = [_numbers(row) for row in csv.DictReader(file)]
        # An epoch that was killed after it was logged stands there twice.
        return list({row["epoch"]: row for row in rows}.values())

    def _best_accuracy(self):
        seen = [row["val_accuracy"] for row in self.history() if "val_accuracy" in row]
        return max(seen, default=None)

    def plot(self) -> Path:
        """Draw loss and accuracy by epoch to `curves.png`.

        Raises:
            ImportError: If matplotlib is missing; the message names the extra.
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
        """Mark the run as finished, and delete what only an unfinished one needs."""
        if not self.writes:
            return
        files.write_text(self.folder / _FINISHED, "")
        for file in ResumePoint.found(self.folder):
            file.unlink()
        self._remove_left_overs()

    def _remove_left_overs(self):
        """Delete what a kill left of files that were being written."""
        for left_over in self.folder.glob(files.TEMPORARY + "*"):
            shutil.rmtree(left_over)


def _numbers(row):
    return {key: float(value) for key, value in row.items() if value}
