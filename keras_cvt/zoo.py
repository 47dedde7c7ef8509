"""The published weights: one record each.

The Hub repositories belong to the organisation `microsoft`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from keras_cvt import config as configs
from keras_cvt import profile
from keras_cvt.config import CvTConfig
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.tables import Table

_CROP_224 = EvalTransform((224, 224), 0.875)
_SQUASH_384 = EvalTransform((384, 384), None)


# As the repositories are tagged. The architecture's official code is MIT (Microsoft);
# ImageNet itself is for non-commercial research.
LICENSE = "apache-2.0"

MODELS: Mapping[str, CvTConfig] = {
    "cvt13": configs.CVT_13,
    "cvt21": configs.CVT_21,
    "cvtw24": configs.CVT_W24,
}


class UnknownWeightsError(ValueError):
    """A name that no published weights have."""


@dataclass(frozen=True)
class WeightsRecord:
    """One set of published weights.

    Attributes:
        model: `"cvt13"`, `"cvt21"` or `"cvtw24"`.
        tag: What `weights=` calls them.
        repo: Repository on the Hugging Face Hub.
        eval_transform: How images were made when they were evaluated.
        top1: ImageNet-1k accuracy in percent, measured by third parties.
        top5: The same, of the best five.
        imagenet_v2_top1: ImageNet-V2 accuracy in percent.
    """

    model: str
    tag: str
    repo: str
    eval_transform: EvalTransform
    top1: float
    top5: float
    imagenet_v2_top1: float

    @property
    def name(self) -> str:
        """Model and tag, such as `"cvt13/imagenet"`."""
        return f"{self.model}/{self.tag}"


@dataclass(frozen=True)
class RepoFiles:
    """What is known of a repository's files.

    Attributes:
        revision: The commit to download, or None: the main branch.
        sha256: Hash of each of its checkpoint files.
    """

    revision: str | None
    sha256: Mapping[str, str]


@cache
def _known_files():
    text = resources.files("keras_cvt").joinpath("assets/hub_files.json").read_text()
    return json.loads(text)


def known_files(repo: str) -> RepoFiles:
    """Return what `conversion/record_hub_files.py` has recorded of a repository."""
    known = _known_files().get(repo, {"revision": None, "sha256": {}})
    return RepoFiles(known["revision"], known["sha256"])


WEIGHTS = (
    WeightsRecord(
        "cvt13", "imagenet", "microsoft/cvt-13", _CROP_224, 81.59, 95.72, 69.81
    ),
    WeightsRecord(
        "cvt13", "imagenet_384", "microsoft/cvt-13-384", _SQUASH_384, 83.0, 96.36, 71.31
    ),
    WeightsRecord(
        "cvt13",
        "imagenet22k_384",
        "microsoft/cvt-13-384-22k",
        _SQUASH_384,
        83.26,
        97.09,
        71.76,
    ),
    WeightsRecord(
        "cvt21", "imagenet", "microsoft/cvt-21", _CROP_224, 82.52, 96.06, 71.18
    ),
    WeightsRecord(
        "cvt21",
        "imagenet_384",
        "microsoft/cvt-21-384",
        _SQUASH_384,
        83.27,
        96.16,
        71.61,
    ),
    WeightsRecord(
        "cvt21",
        "imagenet22k_384",
        "microsoft/cvt-21-384-22k",
        _SQUASH_384,
        84.91,
        97.62,
        74.97,
    ),
    WeightsRecord(
        "cvtw24",
        "imagenet22k_384",
        "microsoft/cvt-w24-384-22k",
        _SQUASH_384,
        87.58,
        98.47,
        78.15,
    ),
)

# The only weights of CvT-W24 answer to the usual tag as well.
_ALIASES = {"cvtw24/imagenet": "cvtw24/imagenet22k_384"}


def list_models() -> Mapping[str, CvTConfig]:
    """Return the published networks by name; printed, a table of their cost.

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


def list_weights(model: str | None = None) -> Mapping[str, WeightsRecord]:
    """Return the published weights; printed, a table with their accuracy.

    Args:
        model: `"cvt13"`, `"cvt21"` or `"cvtw24"`: only its weights, by tag. Without
            it all of them, by full names such as `"cvt13/imagenet"`.

    Raises:
        ValueError: If there is no such model.
    """
    if model is not None and model not in MODELS:
        raise ValueError(f"`model` is one of {list(MODELS)}. Received: model={model!r}")
    names = {record.name: record for record in WEIGHTS}
    names |= {alias: names[name] for alias, name in _ALIASES.items()}
    if model is not None:
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
    """Return the weights called `name`.

    Args:
        name: A full name such as `"cvtw24/imagenet"`, or a bare tag.
        model: The model that a bare tag is of. Without it the bare `"imagenet"`
            means 224 pixels; CvT-W24 needs its full name.

    Raises:
        UnknownWeightsError: If there are none; the valid names are listed.
    """
    full_name = name if model is None or "/" in name else f"{model}/{name}"
    full_name = _ALIASES.get(full_name, full_name)
    candidates = [r for r in WEIGHTS if model in (None, r.model)]
    for record in candidates:
        if full_name in (record.name, record.tag):
            return record
    tags = [*dict.fromkeys(r.tag for r in candidates), *(r.name for r in candidates)]
    raise UnknownWeightsError(
        f"There are no weights of that name{f' for {model}' if model else ''}; valid "
        f"are {[*tags, *(a for a in _ALIASES if a.startswith(model or ''))]}, None, a "
        f"file's path and 'hf://org/repo'. Received: {name!r}"
    )


def find_repo(repo_id: str) -> WeightsRecord | None:
    """Return the published weights of a Hub repository, if it is one of theirs."""
    return next((r for r in WEIGHTS if r.repo == repo_id), None)


def eval_transform(name: str) -> EvalTransform:
    """Return how images are made for the weights called `name`; see `find`."""
    return find(name).eval_transform
