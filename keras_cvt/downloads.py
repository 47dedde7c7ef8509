"""The published weights on this machine: downloaded, checked, converted once."""

import logging
import os
import time
import uuid
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from keras_cvt import files, repository, zoo
from keras_cvt.checkpoints import CheckpointError, layouts, readers

logger = logging.getLogger(__name__)

_A_DAY = 24 * 3600


def cache_folder() -> Path:
    """Return where converted weights are kept: `keras_cvt` beside Keras's files."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    return Path(home) / "keras_cvt"


def fetch(record: zoo.WeightsRecord) -> Path:
    """Return a local file of published weights, official layout.

    The first call downloads and converts; later ones need no network. The file's
    name carries the first half of the hash of its content, which is checked at
    every call: a damaged file is made anew.

    Raises:
        FileNotFoundError: If the repository or its files do not exist.
        OSError: If the Hub cannot be reached and nothing is cached.
        CheckpointError: If a download does not have its recorded hash, or cannot
            be read even after a second try.
    """
    known = zoo.known_files(record.repo)
    stem = f"{record.repo.replace('/', '--')}@{known.revision or 'main'}"
    folder = cache_folder()
    for path in sorted(folder.glob(f"{stem}.*.safetensors")):
        if path.name.split(".")[-2] == files.sha256(path)[:32]:
            return path
        # It stays: another process may have put a good file there meanwhile, and the
        # new one takes its name anyway.
        logger.warning("%s is damaged and is made anew.", path)
    try:
        state = _read_download(record.repo, force=False)
    except CheckpointError as error:
        logger.warning("The download of %s is repeated: %s", record.repo, error)
        state = _read_download(record.repo, force=True)
    return _store(state, folder, stem)


def _read_download(repo, force):
    path = repository.download_checkpoint(repo, force=force)
    return layouts.to_official(readers.read_checkpoint(path))[0]


def _store(state, folder, stem):
    """Write under a name of its own, then rename: no reader sees half a file.

    Two processes that convert at once write the same content to the same name, so
    no lock is needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(".converting-*"):
        # Of a killed process, unless it is at work still.
        if time.time() - left_over.stat().st_mtime > _A_DAY:
            left_over.unlink(missing_ok=True)
    # Not mkstemp, whose files others could not read.
    temporary = folder / f".converting-{uuid.uuid4()}"
    try:
        save_file({k: np.ascontiguousarray(a) for k, a in state.items()}, temporary)
        path = folder / f"{stem}.{files.sha256(temporary)[:32]}.safetensors"
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
