"""The one way to weights: whatever `weights=` may name, found, read and described.

    name -> locate -> read -> describe -> Checkpoint

`locate` finds or downloads the file, `read` returns its arrays under the official
names, and what lies beside the file or is known of published weights describes them.
Published weights are converted once and kept in a cache.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_cvt import profile, repository, zoo
from keras_cvt._utils import files
from keras_cvt._utils.errors import CheckpointError
from keras_cvt.checkpoints import layouts, readers, transformers_format
from keras_cvt.config import CvTConfig
from keras_cvt.description import ModelDescription
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.predictions import imagenet_class_names
from keras_cvt.repository import client, shards
from keras_cvt.repository.cache import cache_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Weights and what their origin tells about them.

    Attributes:
        source: Where they come from, as models and files record it.
        state: Arrays by official key, in official shapes.
        layout: The layout that they were found in; see `layouts.to_official`.
        record: The published weights that they are, or None.
        config: The network that they were trained in, or None.
        eval_transform: How images were made when they were evaluated, or None.
        activation: What they were trained with, or None if the origin does not tell.
        class_names: The class names that came with them, or None.
        description: What `keras_cvt` wrote about the model beside them, or None.
        problem_type: What transformers wrote about the outputs, or None.
    """

    source: str
    state: Mapping[str, np.ndarray]
    layout: str
    record: zoo.WeightsRecord | None = None
    config: CvTConfig | None = None
    eval_transform: EvalTransform | None = None
    activation: str | None = None
    class_names: tuple[str, ...] | None = None
    description: ModelDescription | None = None
    problem_type: str | None = None

    @property
    def classes(self) -> int | None:
        """Number of classes of the head, or None without a head."""
        head = self._array(layouts.HEAD_KERNEL, 2)
        return None if head is None else head.shape[0]

    @property
    def channels(self) -> int | None:
        """Number of image channels, or None if the first stage is missing."""
        kernel = self._array(layouts.FIRST_KERNEL, 4)
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
        kernel = self.state[layouts.FIRST_KERNEL]
        if channels == 1:
            adapted = kernel.sum(axis=1, keepdims=True)
        else:
            taken = np.arange(channels) % self.channels
            adapted = kernel[:, taken] * np.float32(self.channels / channels)
        logger.warning(
            "The first kernel is adapted from %d to %d channels.",
            self.channels,
            channels,
        )
        state = {**self.state, layouts.FIRST_KERNEL: adapted}
        return dataclasses.replace(self, state=state)


@dataclass(frozen=True)
class Location:
    """Where weights were found.

    Attributes:
        source: As `Checkpoint`.
        path: The checkpoint file.
        record: The published weights that they are, or None.
        cached: Whether the file is the cache's, already converted.
        pinned: Whether it is a fresh download that the cache is to keep.
    """

    source: str
    path: Path
    record: zoo.WeightsRecord | None = None
    cached: bool = False
    pinned: bool = False

    @functools.cached_property
    def files(self) -> list[Path]:
        """The files with the arrays: the checkpoint file, or its shards."""
        return shards.shard_files(self.path)


def resolve(
    weights: str | os.PathLike,
    model: str | None = None,
    config: CvTConfig | None = None,
) -> Checkpoint:
    """Find, download if necessary, and read the weights that `weights` names.

    Args:
        weights: A published tag, the path of a checkpoint file or of a folder with
            one, or `"hf://org/repo"`, also `"hf://org/repo@revision"`.
        model: The published model that a bare tag is of. Defaults to `None`.
        config: The network that takes them. Published weights of another are refused
            before a download. Defaults to `None`: any network.

    Returns:
        The weights with what is known about them.

    Raises:
        ValueError: If nothing goes by that name.
        FileNotFoundError: If there is no file at that path.
        OSError: If a download fails and nothing is cached.
        CheckpointError: If the checkpoint cannot be read or is of another network.
    """
    location = locate(weights, model, config=config)
    state, layout = read(location)
    checkpoint = Checkpoint(location.source, state, layout, location.record)
    if location.record is not None:
        return _describe_published(checkpoint, location.record)
    facts = transformers_format.read_facts(
        location.path, layout, checkpoint.classes, checkpoint.channels
    )
    checkpoint = dataclasses.replace(checkpoint, **facts)
    if checkpoint.config is not None:
        _check_size(checkpoint, location.files)
    return checkpoint


def locate(
    weights: str | os.PathLike,
    model: str | None = None,
    descriptions: client.Descriptions = "needed",
    config: CvTConfig | None = None,
) -> Location:
    """Find the weights that `weights` names, and download them if necessary.

    The other arguments and the errors are those of `resolve`.

    Args:
        weights: See `resolve`.
        model: See `resolve`.
        descriptions: See `repository.download_checkpoint`. Defaults to `"needed"`.
        config: See `resolve`.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            "`weights` must be None, a name, a path or 'hf://org/repo'. "
            f"Received: weights={weights!r}"
        )
    name, path = os.fspath(weights), Path(weights)
    if isinstance(weights, str) and name.startswith(client.SCHEME):
        repo_id, revision = client.split_revision(name)
        record = zoo.find_repo(repo_id)
        _check_network(record, config)
        return _in_repository(repo_id, revision, record, descriptions)
    try:
        # First, so that a folder called "imagenet" cannot stand in for the weights. A
        # `Path` to it is no name.
        if isinstance(weights, str):
            record = zoo.find(name, model)
            _check_network(record, config)
            return _in_repository(record.repo, None, record, descriptions)
    except zoo.UnknownWeightsError:
        tag = not path.suffix and (not path.parts[1:] or path.parts[0] in zoo.MODELS)
        if tag and not path.exists():
            raise
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder of weights {name!r}.")
    checkpoint = client.find_checkpoint(path) if path.is_dir() else path
    record = _published_copy(checkpoint, config)
    return Location(record.name if record else path.name, checkpoint, record)


def _published_copy(path, config):
    """Return the published weights that a local file is a copy of, or None.

    What lies beside it may be wrong: transformers runs its copies with GELU, and in
    some of their repositories `preprocessor_config.json` has another image size.
    """
    try:
        record = zoo.find_file(files.sha256(path)) if path.is_file() else None
    except zoo.RecordError as error:
        logger.warning("%s is not compared with published files: %s", path, error)
        return None
    _check_network(record, config)
    return record


def _check_network(record, config):
    """Refuse published weights of another network, before they are downloaded."""
    if record is None or config is None:
        return
    theirs = profile.parameters(zoo.MODELS[record.model])
    ours = profile.parameters(config)
    if ours != theirs:
        raise CheckpointError(
            f"Expected weights of the network, which has {ours:,} parameters with 1000 "
            f"classes. Received: {record.name}, weights of {theirs:,} parameters"
        )


def _in_repository(repo_id, revision, record, descriptions):
    if record is None:
        path = repository.download_checkpoint(
            repo_id, revision, descriptions=descriptions
        )
        source = client.SCHEME + "@".join(filter(None, (repo_id, revision)))
        return Location(source, path)
    if revision in (None, record.files.revision):
        cached = _cached(record)
        if cached is not None:
            return Location(record.name, cached, record, cached=True)
        return Location(record.name, _download(record), record, pinned=True)
    path = repository.download_checkpoint(repo_id, revision, descriptions="unneeded")
    return Location(f"{client.SCHEME}{repo_id}@{revision}", path, record)


def _download(record):
    known = record.files
    try:
        return repository.download_checkpoint(
            record.repo, known.revision, known.sha256 or None, "unneeded"
        )
    except FileNotFoundError as error:
        if known.revision is None:
            raise
        raise FileNotFoundError(
            f"{error} A mirror may have other commits: record them with "
            f"conversion/record_hub_files.py and name the file in {zoo.HUB_FILES}, or "
            "load what is there now at your own risk with "
            f"weights='{client.SCHEME}{record.repo}@main'."
        ) from error


def read(location: Location) -> tuple[dict[str, np.ndarray], str]:
    """Return the arrays by official key, and the layout that they were found in.

    Published weights are then kept in the cache.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
    """
    arrays: dict[str, np.ndarray] = {}
    for path in location.files:
        if not path.is_file() and path != location.path:
            raise FileNotFoundError(
                f"{location.path} lists {path.name!r:.200}, which is not beside it."
            )
        arrays |= readers.read_checkpoint(path)
    if location.cached:
        from safetensors import safe_open

        with safe_open(location.path, "numpy") as file:
            # Version 0.1.0 did not record it. All published files are transformers'.
            return arrays, (file.metadata() or {}).get("layout", "transformers")
    state, layout = layouts.to_official(arrays)
    if location.pinned:
        _keep(location.record, state, layout)
    return state, layout


def fetch(record: zoo.WeightsRecord) -> Path:
    """Fill the cache with published weights ahead of time.

    Args:
        record: Of `zoo.find`.

    Returns:
        The converted file, in the official layout. Its name contains the first half
        of the hash of its content, which is checked at every call: a damaged file is
        made anew. If the cache cannot be written, the downloaded file.

    Raises:
        FileNotFoundError: If the repository or its files do not exist.
        OSError: If the Hub cannot be reached and nothing is cached.
        CheckpointError: If a download does not match its recorded hash or cannot be
            read.
    """
    location = locate(record.name)
    if location.cached:
        return location.path
    read(location)
    return _cached(record) or location.path


def _cache_stem(record):
    return f"{record.repo.replace('/', '--')}@{record.files.revision or 'main'}"


def _cached(record):
    for path in sorted(cache_folder().glob(f"{_cache_stem(record)}.*.safetensors")):
        try:
            if path.name.split(".")[-2] == files.sha256(path)[:32]:
                return path
        except OSError as error:
            logger.warning("%s cannot be read: %s", path, error)
            continue
        # It stays: another process may have put a good file there meanwhile, and the
        # new one takes its name anyway.
        logger.warning("%s is damaged and is made anew.", path)
    return None


def _keep(record, state, layout):
    # Two processes that convert at once write the same content to the same name, so
    # no lock is needed.
    try:
        files.write_named(
            cache_folder(),
            lambda path: files.save_safetensors(path, state, {"layout": layout}),
            lambda path: f"{_cache_stem(record)}.{files.sha256(path)[:32]}.safetensors",
        )
    except OSError as error:
        logger.warning(
            "The converted weights cannot be kept in %s and will be converted again "
            "at the next call: %s. Set KERAS_HOME to a folder that can be written.",
            cache_folder(),
            error,
        )


def _describe_published(checkpoint, record):
    names = tuple(imagenet_class_names())
    return dataclasses.replace(
        checkpoint,
        config=zoo.MODELS[record.model],
        eval_transform=record.eval_transform,
        # Although transformers runs its copies with GELU.
        activation="quick_gelu",
        class_names=names if checkpoint.classes == len(names) else None,
    )


def _check_size(checkpoint, paths):
    """Refuse a network that the weights cannot fill, before it is built."""
    config, stored = checkpoint.config, sum(path.stat().st_size for path in paths)
    # Many names may stand for the same numbers, which take at least a byte each.
    available = min(sum(array.size for array in checkpoint.state.values()), stored)
    try:
        needed = profile.parameters(config, 0, checkpoint.channels or 1)
    except ValueError as error:
        raise CheckpointError(f"The configuration makes no network: {error}") from error
    if needed > available:
        raise CheckpointError(
            f"The configuration describes a network of {needed:,} parameters. "
            f"Received: weights of {available:,} numbers"
        )
    for i, stage in enumerate(config.stages):
        strides = (stage.patch_stride, stage.stride_q, stage.stride_kv)
        if max(strides) > transformers_format.MAX_IMAGE_SIZE:
            raise CheckpointError(
                f"Expected strides of at most {transformers_format.MAX_IMAGE_SIZE}, "
                f"the largest image. Received: stage {i} with {strides}"
            )
        # More would only add rows of zeros, and no network has it.
        if (
            stage.patch_padding >= stage.patch_size
            or stage.padding_kv >= stage.kernel_size
        ):
            raise CheckpointError(
                "Expected a padding smaller than its kernel. Received: stage "
                f"{i} with patch_padding={stage.patch_padding}, "
                f"padding_kv={stage.padding_kv}"
            )
