"""The published networks and weights: one record for each.

The weights are in repositories of the organisation `microsoft` on the Hugging Face
Hub.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from keras_cvt import config as configs
from keras_cvt import profile
from keras_cvt._utils import validation
from keras_cvt._utils.tables import Table
from keras_cvt.config import CvTConfig
from keras_cvt.eval_transform import EvalTransform

# As the official code evaluates them: a centre crop at 224 pixels, none at 384.
_AT_224 = EvalTransform((224, 224), 0.875)
_AT_384 = EvalTransform((384, 384), None)

# The licence of all published weights, as their repositories state it. The official
# code has the MIT licence. ImageNet is for non-commercial research.
LICENSE = "apache-2.0"

# Names another record of the files on the Hub; see `known_files`.
HUB_FILES = "KERAS_CVT_HUB_FILES"
# Commits and hashes as pages of the Hub show them. What is not there was not seen.
_RECORD = "assets/hub_files.json"

MODELS: Mapping[str, CvTConfig] = {
    "cvt13": configs.CVT_13,
    "cvt21": configs.CVT_21,
    "cvtw24": configs.CVT_W24,
}
"""The configurations of the published networks, by name."""


class RecordError(ValueError):
    """A record of files on the Hub cannot be read."""


class UnknownWeightsError(ValueError):
    """No published weights have this name."""


@dataclass(frozen=True)
class WeightsRecord:
    """One set of published weights.

    The accuracies are those that third parties measured: ImageNet-1k's are in
    PaddleViT's table of models (the newer one, where two disagree), ImageNet-V2's in
    the README of EMalagoli92/CvT-TensorFlow.

    Attributes:
        model: Key of the network in `MODELS`.
        tag: Name of the weights in `weights=`, such as `"imagenet"`.
        repo: Repository on the Hugging Face Hub.
        eval_transform: How images are resized and cropped to evaluate the weights.
        top1: Top-1 accuracy on ImageNet-1k, in percent.
        top5: Top-5 accuracy on ImageNet-1k, in percent.
        imagenet_v2_top1: Top-1 accuracy on ImageNet-V2, in percent.
        imagenet_v2_top5: Top-5 accuracy on ImageNet-V2, in percent.
    """

    model: str
    tag: str
    repo: str
    eval_transform: EvalTransform
    top1: float
    top5: float
    imagenet_v2_top1: float
    imagenet_v2_top5: float

    @property
    def name(self) -> str:
        """Model and tag, such as `"cvt13/imagenet"`."""
        return f"{self.model}/{self.tag}"

    @property
    def files(self) -> "RepoFiles":
        """The recorded revision and hashes of the repository's files."""
        return RepoFiles(**known_files().get(self.repo, {}))


@dataclass(frozen=True)
class RepoFiles:
    """The recorded files of a repository.

    Attributes:
        revision: The commit to download, or None for the main branch.
        sha256: Name of each checkpoint file that may be downloaded -> its hash. If
            none is recorded, the best file is, unchecked.
    """

    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


def known_files() -> Mapping[str, Mapping]:
    """Return the recorded files of the published repositories, by repository.

    The environment variable `KERAS_CVT_HUB_FILES` names another record, such as that of
    a mirror with commits of its own. `conversion/record_hub_files.py` writes records.
    What a record does not list is downloaded from the main branch, unchecked.

    Raises:
        RecordError: If the environment variable names no such record.
    """
    return _read_record(os.environ.get(HUB_FILES))


@cache
def _read_record(path):
    if not path:
        return json.loads((resources.files("keras_cvt") / _RECORD).read_text())
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        for repo in record.values():
            known = RepoFiles(**repo)
            _check_hex(40, known.revision)
            _check_hex(64, *known.sha256.values())
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RecordError(
            f"Expected {HUB_FILES} to name a file that conversion/record_hub_files.py "
            f"wrote. Received: {path} ({error})"
        ) from error
    return record


def _check_hex(digits, *values):
    for value in values:
        if not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
            raise ValueError(f"expected {digits} hexadecimal digits, not {value!r:.80}")


# Model, tag, repository, size, then top-1 and top-5 on ImageNet and on ImageNet-V2.
WEIGHTS = tuple(
    WeightsRecord(model, tag, f"microsoft/{repo}", transform, *accuracies)
    for model, tag, repo, transform, *accuracies in (
        ("cvt13", "imagenet", "cvt-13", _AT_224, 81.59, 95.67, 69.81, 89.13),
        ("cvt13", "imagenet_384", "cvt-13-384", _AT_384, 83.0, 96.36, 71.31, 89.97),
        (
            "cvt13",
            "imagenet22k_384",
            "cvt-13-384-22k",
            _AT_384,
            83.26,
            97.09,
            71.76,
            91.39,
        ),
        ("cvt21", "imagenet", "cvt-21", _AT_224, 82.46, 96.0, 71.18, 89.31),
        ("cvt21", "imagenet_384", "cvt-21-384", _AT_384, 83.27, 96.16, 71.61, 89.71),
        (
            "cvt21",
            "imagenet22k_384",
            "cvt-21-384-22k",
            _AT_384,
            84.91,
            97.62,
            74.97,
            92.63,
        ),
        (
            "cvtw24",
            "imagenet22k_384",
            "cvt-w24-384-22k",
            _AT_384,
            87.58,
            98.47,
            78.15,
            94.48,
        ),
    )
)
"""The records of the published weights, in the order of the tables."""

# CvT-W24 has only these weights, so the usual tag means them.
_ALIASES = {"cvtw24/imagenet": "cvtw24/imagenet22k_384"}


def list_models() -> Table[CvTConfig]:
    """Return the configurations of the published networks by name.

    Returns:
        A mapping from names such as `"cvt13"` to configurations. It prints as a table
        with the number of parameters and of multiply-accumulates (MACs).

    Example:
        >>> print(keras_cvt.list_models())
    """
    return Table(
        MODELS,
        {
            "model": lambda name, _: name,
            "embed_dim": lambda _, c: ", ".join(str(s.embed_dim) for s in c.stages),
            "depth": lambda _, c: ", ".join(str(s.depth) for s in c.stages),
            "parameters": lambda _, c: profile.parameters(c),
            "GMACs 224": lambda _, c: profile.macs(c, 224, 224) / 1e9,
            "GMACs 384": lambda _, c: profile.macs(c, 384, 384) / 1e9,
        },
    )


def list_weights(model: str | None = None) -> Table[WeightsRecord]:
    """Return the records of the published weights by name.

    Args:
        model: `"cvt13"`, `"cvt21"` or `"cvtw24"`, to list only the weights of this
            model. Defaults to `None`, all weights.

    Returns:
        A mapping from names to records. It prints as a table with sizes and
        accuracies. With a `model`, the names are tags such as `"imagenet"`, otherwise
        full names such as `"cvt13/imagenet"`.

    Raises:
        ValueError: If there is no such model.

    Example:
        >>> print(keras_cvt.list_weights("cvt13"))
    """
    names = {record.name: record for record in WEIGHTS}
    names |= {alias: names[name] for alias, name in _ALIASES.items()}
    if model is not None:
        validation.check_choice(tuple(MODELS), model=model)
        names = {
            name.removeprefix(f"{model}/"): record
            for name, record in names.items()
            if record.model == model
        }
    return Table(
        names,
        {
            "weights": lambda name, _: name,
            "size": lambda _, r: r.eval_transform.image_size[0],
            "parameters": lambda _, r: profile.parameters(MODELS[r.model]),
            "GMACs": lambda _, r: (
                profile.macs(MODELS[r.model], *r.eval_transform.image_size) / 1e9
            ),
            "top-1 %": lambda _, r: r.top1,
            "top-5 %": lambda _, r: r.top5,
            "licence": lambda *_: LICENSE,
            "origin": lambda _, r: r.repo,
        },
    )


def find(name: str, model: str | None = None) -> WeightsRecord:
    """Return the record of published weights.

    Args:
        name: A full name such as `"cvtw24/imagenet"`, or a tag such as `"imagenet"`.
        model: The model that a tag belongs to. Defaults to `None`: a tag then means
            the first model that has it.

    Raises:
        UnknownWeightsError: If there are no such weights. The error lists the valid
            names.
    """
    full_name = name if model is None or "/" in name else f"{model}/{name}"
    full_name = _ALIASES.get(full_name, full_name)
    candidates = [r for r in WEIGHTS if model in (None, r.model)]
    for record in candidates:
        if full_name in (record.name, record.tag):
            return record
    tags = [*dict.fromkeys(r.tag for r in candidates), *(r.name for r in candidates)]
    tags += [alias for alias in _ALIASES if alias.startswith(model or "")]
    raise UnknownWeightsError(
        f"There are no weights with this name{f' for {model}' if model else ''}. "
        f"Expected one of {tags}, None, the path of a file, or 'hf://org/repo'. "
        f"Received: {name!r}"
    )


def find_repo(repo_id: str) -> WeightsRecord | None:
    """Return the published weights in a repository of the Hub, or None.

    Args:
        repo_id: Such as `"microsoft/cvt-13"`.
    """
    return next((r for r in WEIGHTS if r.repo == repo_id), None)


def find_file(sha256: str) -> WeightsRecord | None:
    """Return the published weights whose recorded file has this hash, or None."""
    return next((r for r in WEIGHTS if sha256 in r.files.sha256.values()), None)


def eval_transform(name: str) -> EvalTransform:
    """Return how images are resized and cropped to evaluate published weights.

    Args:
        name: A full name or a tag; see `find`.

    Raises:
        UnknownWeightsError: If there are no such weights.
    """
    return find(name).eval_transform
