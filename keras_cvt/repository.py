"""The files of a model repository: which there are, and whether to believe them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from keras_cvt import files, hub_files, image_processors, profile, zoo
from keras_cvt.config import CvTConfig
from keras_cvt.errors import CheckpointError
from keras_cvt.eval_transform import EvalTransform

# In the format of `sha256sum`, so that anybody can check a downloaded repository.
SUMS = "SHA256SUMS"
# Our part of `config.json`; transformers keeps it without reading it.
CONFIG_KEY = "keras_cvt"
# The same of a checkpoint alone, where transformers cannot say how images are made.
TRANSFORM_KEY = "eval_transform"
CLASSIFIER_ACTIVATIONS = ("softmax", "sigmoid", "linear")

# Of one side. Images are made that large before a network sees them.
_MAX_IMAGE_SIZE = 8192
_SUMS_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class Settings:
    """What of a model its weights do not tell: our part of `config.json`.

    Attributes:
        config: The network.
        eval_transform: How images are made for it.
        include_preprocessing: Whether it normalises its images itself.
        classifier_activation: Of the head, one of `CLASSIFIER_ACTIVATIONS`.
        name: The model's name.
    """

    config: CvTConfig
    eval_transform: EvalTransform
    include_preprocessing: bool
    classifier_activation: str
    name: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {
            "config": self.config.to_dict(),
            "eval_transform": self.eval_transform.to_dict(),
            "include_preprocessing": self.include_preprocessing,
            "classifier_activation": self.classifier_activation,
            "name": self.name,
        }


def read_settings(json_config: Mapping[str, Any]) -> Settings | None:
    """Return our part of a repository's `config.json`, or None if it has none.

    Raises:
        CheckpointError: If it does not describe a model.
    """
    values = json_config.get(CONFIG_KEY)
    if values is None:
        return None
    try:
        settings = Settings(
            CvTConfig.from_dict(values["config"]),
            EvalTransform.from_dict(values["eval_transform"]),
            values["include_preprocessing"],
            values["classifier_activation"],
            values["name"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"Expected a model of keras_cvt in config.json: {str(error)[:300]}"
        ) from error
    valid_name = isinstance(settings.name, str) and re.fullmatch(
        r"[\w.-]{1,100}", settings.name
    )
    if (
        not valid_name
        or not isinstance(settings.include_preprocessing, bool)
        or settings.classifier_activation not in CLASSIFIER_ACTIVATIONS
    ):
        raise CheckpointError(
            "Expected in config.json a name, include_preprocessing true or false and a "
            f"classifier_activation of {CLASSIFIER_ACTIVATIONS}. "
            f"Received: {str(values)[:300]}"
        )
    _check_image_size(settings.eval_transform)
    return settings


def read_transform(
    json_config: Mapping[str, Any], processor: Mapping[str, Any]
) -> EvalTransform | None:
    """Return how images are made for a model in transformers' layout, if it is said.

    `preprocessor_config.json` says it best, then what `save_checkpoint` adds to
    `config.json` where transformers has no such transform, then its `image_size`.

    Raises:
        CheckpointError: If a size or a share is out of range.
    """
    try:
        transform = image_processors.from_transformers(processor)
        if transform is None and TRANSFORM_KEY in json_config:
            transform = EvalTransform.from_dict(json_config[TRANSFORM_KEY])
        if transform is None and isinstance(json_config.get("image_size"), int):
            transform = image_processors.of_image_size(json_config["image_size"])
    except (TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"Expected sizes of images in {image_processors.FILE} and config.json: "
            f"{str(error)[:300]}"
        ) from error
    if transform is not None:
        _check_image_size(transform)
    return transform


def _check_image_size(transform):
    if max(transform.image_size) > _MAX_IMAGE_SIZE:
        raise CheckpointError(
            f"Expected images of at most {_MAX_IMAGE_SIZE} pixels a side. "
            f"Received: {transform}"
        )


def check_config(config: CvTConfig, state: Mapping[str, Any], channels: int) -> None:
    """Refuse a network that the weights at hand cannot fill, before it is built.

    Args:
        config: From the place that the weights come from.
        state: The weights.
        channels: Number of image channels.

    Raises:
        CheckpointError: If the network is larger than its weights.
    """
    available = sum(array.size for array in state.values())
    try:
        needed = profile.parameters(config, 0, channels)
    except ValueError as error:
        raise CheckpointError(f"The configuration makes no network: {error}") from error
    if needed > available:
        raise CheckpointError(
            f"The configuration describes a network of {needed:,} parameters. "
            f"Received: weights of {available:,} numbers"
        )
    for i, stage in enumerate(config.stages):
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


def download_checkpoint(
    repo_id: str, revision: str | None = None, force: bool = False
) -> Path:
    """Download a repository's checkpoint, pinned and checked as far as is recorded.

    Args:
        repo_id: Such as `"org/repo"`.
        revision: Branch, tag or commit; None is the commit that this package records
            of the published weights, of any other repository the main branch.
        force: Whether to download again what the Hub's cache holds.

    Raises:
        CheckpointError: If it has not the hash that the repository or this package
            records.
        FileNotFoundError: If the repository or its checkpoint does not exist.
        OSError: If the Hub cannot be reached and nothing is cached.
    """
    revision = revision or zoo.known_files(repo_id).revision
    checkpoint = hub_files.download_checkpoint(repo_id, revision, force)
    commit = _commit(checkpoint, revision)
    _check_hash(checkpoint, _recorded(repo_id, commit), repo_id)
    return checkpoint


def download(repo_id: str, revision: str | None = None) -> Path:
    """Download a repository's checkpoint and what describes it, all of one commit.

    `config.json` and `preprocessor_config.json` come to lie beside it. Nothing else
    is read, and never a SavedModel or a `.keras` file.

    Args:
        repo_id: As `download_checkpoint`.
        revision: As `download_checkpoint`, like the errors.
    """
    checkpoint = download_checkpoint(repo_id, revision)
    commit = _commit(checkpoint, revision)
    sums = _recorded(repo_id, commit)
    for name in ("config.json", image_processors.FILE):
        path = hub_files.download_optional(repo_id, name, commit)
        if path is not None:
            _check_hash(path, sums, repo_id)
    return checkpoint


def _commit(path, revision):
    # huggingface_hub keeps every commit in a folder of that name.
    commit = path.parent.name
    return commit if re.fullmatch(r"[0-9a-f]{40}", commit) else revision


def _recorded(repo_id, commit):
    sums = read_sums(hub_files.download_optional(repo_id, SUMS, commit))
    known = zoo.known_files(repo_id)
    return {**sums, **known.sha256} if commit == known.revision else sums


def _check_hash(path, sums, repo_id):
    expected = sums.get(path.name)
    if expected is not None and files.sha256(path) != expected:
        raise CheckpointError(
            f"{path.name} of {repo_id} should have the SHA-256 {expected}, which was "
            f"recorded of it. Received: {files.sha256(path)}"
        )


def read_sums(path: Path | None) -> dict[str, str]:
    """Return the hashes that a repository records, by file name.

    Raises:
        CheckpointError: If the file is damaged or names files outside its folder.
    """
    if path is None:
        return {}
    sums = {}
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise CheckpointError(f"{path.name} is no text: {error}") from error
    for line in text.splitlines():
        match = _SUMS_LINE.fullmatch(line)
        if not match:
            raise CheckpointError(
                f"Expected lines of a SHA-256 and a file name in {path.name}. "
                f"Received: {line[:100]!r}"
            )
        check_name(match[2])
        sums[match[2]] = match[1]
    return sums


def write_sums(folder: Path) -> None:
    """Record the SHA-256 of every file of a folder in the folder."""
    lines = [f"{files.sha256(folder / name)}  {name}\n" for name in names(folder)]
    files.write_text(folder / SUMS, "".join(lines))


def names(folder: Path) -> list[str]:
    """Return the names of a folder's files, as a repository has them.

    Raises:
        ValueError: If it holds anything but plain files and folders.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"Expected plain files and folders. Received: {path}")
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != SUMS:
            check_name(name)
            found.append(name)
    return found


def check_name(name: str) -> None:
    """Raise CheckpointError unless `name` stays inside its folder."""
    parts = PurePosixPath(name).parts
    odd = any(ord(character) < 32 or character in "\\:" for character in name)
    if not parts or odd or name.startswith("/") or ".." in parts or ".git" in parts:
        raise CheckpointError(f"Expected a name inside its folder. Received: {name!r}")
