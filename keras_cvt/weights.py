"""Whatever `weights=` may name, as a state dict and what its origin tells."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keras_cvt import downloads, hub_files, image_processors, repository, zoo
from keras_cvt.checkpoints import layouts, readers
from keras_cvt.config import CvTConfig
from keras_cvt.errors import CheckpointError
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.predictions import imagenet_labels

logger = logging.getLogger(__name__)

_FIRST_KERNEL = "stage0.patch_embed.proj.weight"


@dataclass(frozen=True)
class Checkpoint:
    """Weights at hand.

    Attributes:
        state: Official keys and shapes.
        layout: The layout that they were found in; see `layouts.to_official`.
        eval_transform: How images were made when they were evaluated, if known.
        activation: What they were trained with, where the origin tells; None
            leaves it to the configuration.
        config: The configuration that came with them, if any.
        labels: The classes' names that came with them, if any.
        settings: What else a repository of `keras_cvt.hub` tells of the model.
    """

    state: Mapping[str, np.ndarray]
    layout: str
    eval_transform: EvalTransform | None = None
    activation: str | None = None
    config: CvTConfig | None = None
    labels: tuple[str, ...] = field(default=())
    settings: repository.Settings | None = None

    @property
    def classes(self) -> int | None:
        """Number of classes of the head, or None without a head."""
        head = self._array("head.weight", 2)
        return None if head is None else head.shape[0]

    @property
    def channels(self) -> int | None:
        """Number of image channels, or None if the first stage is missing."""
        kernel = self._array(_FIRST_KERNEL, 4)
        return None if kernel is None else kernel.shape[1]

    def _array(self, name, ndim):
        array = self.state.get(name)
        if array is not None and array.ndim != ndim:
            raise CheckpointError(
                f"Expected {name} with {ndim} axes. Received: shape={array.shape}"
            )
        return array

    def with_channels(self, channels: int) -> "Checkpoint":
        """Return the weights for images of another number of channels.

        One channel gets the sum of the first kernel's channels: a grey image then
        computes what it did as RGB. More get them in turn, scaled so that the
        response to equal channels stays about as large.
        """
        if self.channels in (None, channels):
            return self
        kernel = self.state[_FIRST_KERNEL]
        if channels == 1:
            adapted = kernel.sum(axis=1, keepdims=True)
        else:
            turns = np.arange(channels) % self.channels
            adapted = kernel[:, turns] * np.float32(self.channels / channels)
        logger.warning(
            "The first kernel is adapted from %d to %d channels.",
            self.channels,
            channels,
        )
        return dataclasses.replace(self, state={**self.state, _FIRST_KERNEL: adapted})


def resolve(weights: str | os.PathLike, model: str | None = None) -> Checkpoint:
    """Find, download if need be, and read the weights that `weights` names.

    Args:
        weights: A published tag, the path of a checkpoint file or of a folder with
            one, or `"hf://org/repo"`, also `"hf://org/repo@revision"`.
        model: The published model that a bare tag is of.

    Raises:
        ValueError: If nothing goes by that name.
        FileNotFoundError: If there is no file at that path.
        OSError: If a download fails and nothing is cached.
        CheckpointError: If the checkpoint cannot be read.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            "`weights` must be None, a name, a path or 'hf://org/repo'. "
            f"Received: weights={weights!r}"
        )
    if isinstance(weights, str) and weights.startswith(hub_files.SCHEME):
        name = weights.removeprefix(hub_files.SCHEME)
        return from_repository(*hub_files.split_revision(name))
    try:
        # First, so that a folder called "imagenet" cannot stand in for the weights.
        record = zoo.find(str(weights), model)
        return _published(downloads.fetch(record), record)
    except zoo.UnknownWeightsError:
        path = Path(weights)
        if not path.exists():
            if path.suffix or (path.parts[1:] and path.parts[0] not in zoo.MODELS):
                raise FileNotFoundError(
                    f"There is no file or folder of weights {str(path)!r}."
                ) from None
            raise
    if path.is_dir():
        path = hub_files.find_checkpoint(path)
    return _from_file(path)


def _published(path, record):
    """Read published weights in whatever layout they are."""
    state, layout = layouts.to_official(readers.read_checkpoint(path))
    labels = tuple(imagenet_labels())
    return Checkpoint(
        state,
        layout,
        eval_transform=record.eval_transform,
        # Although transformers runs its copies with GELU.
        activation="quick_gelu",
        config=zoo.MODELS[record.model],
        # A stand-in may have another head.
        labels=labels if len(state.get("head.weight", ())) == len(labels) else (),
    )


def from_repository(repo_id: str, revision: str | None = None) -> Checkpoint:
    """Download and read the weights of a Hub repository.

    Args:
        repo_id: Such as `"org/repo"`.
        revision: Branch, tag or commit; None is the main branch, or what is recorded
            of the published weights.

    Raises:
        CheckpointError: If a file cannot be read, has not its recorded hash, or they
            do not belong together.
        OSError: If a download fails and nothing is cached.
    """
    record = zoo.find_repo(repo_id)
    if record is None:
        return _from_file(repository.download(repo_id, revision))
    if revision is None:
        return _published(downloads.fetch(record), record)
    return _published(repository.download_checkpoint(repo_id, revision), record)


def _from_file(path):
    """Read a checkpoint file, and what the files beside it tell about it."""
    state, layout = layouts.to_official(readers.read_checkpoint(path))
    json_config, processor = (
        _read_beside(path.with_name(name), layout)
        for name in ("config.json", image_processors.FILE)
    )
    checkpoint = _described(state, layout, json_config, processor, path)
    if checkpoint.config is not None:
        repository.check_config(
            checkpoint.config, state, checkpoint.channels or 1, path.stat().st_size
        )
    return checkpoint


def _read_beside(path, layout):
    if not path.is_file():
        return {}
    try:
        return hub_files.read_config(path)
    except ValueError:
        # An official checkpoint may lie beside the files of any other program.
        if layout != "official":
            raise
        return {}


def _described(state, layout, json_config, processor, path):
    settings = repository.read_settings(json_config)
    if settings is not None:
        return Checkpoint(
            state,
            layout,
            eval_transform=settings.eval_transform,
            activation=settings.config.activation,
            config=settings.config,
            labels=_labels(json_config.get("id2label"), state, path),
            settings=settings,
        )
    if not layout.startswith("transformers"):
        return Checkpoint(state, layout)
    activation = json_config.get("activation")
    if activation is None:
        activation = "gelu"
        logger.warning(
            "%s is in transformers' layout, whose models compute exact GELU: loaded "
            "with activation='gelu'. For a copy of the published weights pass "
            "activation='quick_gelu'.",
            path,
        )
    config = None
    if "embed_dim" in json_config:
        config = CvTConfig.from_transformers(json_config)
    return Checkpoint(
        state,
        layout,
        eval_transform=repository.read_transform(json_config, processor),
        activation=activation,
        config=config,
        labels=_labels(json_config.get("id2label"), state, path),
    )


def _labels(id2label, state, path):
    head = state.get("head.weight")
    if not isinstance(id2label, Mapping) or head is None:
        return ()
    if len(id2label) != len(head):
        logger.warning(
            "%s has %d classes, but its config.json names %d: the names are left out.",
            path,
            len(head),
            len(id2label),
        )
        return ()
    return tuple(str(id2label.get(str(i), f"class {i}")) for i in range(len(id2label)))
