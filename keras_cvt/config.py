"""Configurations of CvT: what a network is made of, and nothing else.

Every architecture number of the project stands here.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from keras_cvt import validation


@dataclass(frozen=True)
class StageConfig:
    """One stage: a convolutional token embedding and its Transformer blocks.

    Args:
        embed_dim: Channels of the stage's tokens.
        depth: Number of Transformer blocks.
        num_heads: Attention heads; must divide `embed_dim`.
        patch_size: Kernel size of the convolutional token embedding, in pixels.
        patch_stride: Stride of the embedding.
        patch_padding: Zeros added on every side before the embedding.
        mlp_ratio: Hidden width of the MLP, as a multiple of `embed_dim`.
        qkv_bias: Whether the query, key and value layers have a bias.
        drop_rate: Dropout after the embedding, the attention and both MLP layers.
        attention_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last block; the blocks before it
            rise linearly from 0.
        cls_token: Whether the stage adds a class token.
        projection: `"dw_bn"` (depthwise convolution and BatchNorm), `"avg"`
            (average pooling of keys and values) or `"linear"` (none).
        kernel_size: Kernel size of the projections.
        padding_q: Padding of the query projection.
        padding_kv: Padding of the key and value projections.
        stride_q: Stride of the query projection; the residual needs 1.
        stride_kv: Stride of the key and value projections.
        head_dim: Channels of a head; None: `embed_dim / num_heads`.
        scale: The attention's scores are multiplied by `embed_dim ** -0.5`
            (`"embed_dim"`) or by a head's channels `** -0.5` (`"head_dim"`).
        shared_kv: Whether keys and values share one convolutional projection, each
            with a linear layer of its own.
        embed_drop_rate: Dropout after the embedding; None: `drop_rate`.

    Raises:
        ValueError: If the values do not make a network.

    Reference:
        Paper section 3 and Table 2; `spec` of the official
        `lib/models/cls_cvt.py`. The last four fields: `vit_pytorch/cvt.py` of
        lucidrains/vit-pytorch.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    patch_stride: int
    patch_padding: int
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    drop_rate: float = 0.0
    attention_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    cls_token: bool = False
    projection: str = "dw_bn"
    kernel_size: int = 3
    padding_q: int = 1
    padding_kv: int = 1
    stride_q: int = 1
    stride_kv: int = 2
    head_dim: int | None = None
    scale: str = "embed_dim"
    shared_kv: bool = False
    embed_drop_rate: float | None = None

    def __post_init__(self):
        validation.check_int(
            1,
            depth=self.depth,
            patch_size=self.patch_size,
            patch_stride=self.patch_stride,
        )
        validation.check_int(0, patch_padding=self.patch_padding)
        validation.head_dim(self.embed_dim, self.num_heads, self.head_dim)
        validation.mlp_hidden_dim(self.embed_dim, self.mlp_ratio)
        validation.check_bool(
            qkv_bias=self.qkv_bias, cls_token=self.cls_token, shared_kv=self.shared_kv
        )
        validation.check_choice(validation.SCALES, scale=self.scale)
        validation.check_rate(
            drop_rate=self.drop_rate,
            attention_drop_rate=self.attention_drop_rate,
            drop_path_rate=self.drop_path_rate,
        )
        if self.embed_drop_rate is not None:
            validation.check_rate(embed_drop_rate=self.embed_drop_rate)
        validation.check_projections(
            self.projection,
            self.kernel_size,
            self.padding_q,
            self.padding_kv,
            self.stride_q,
            self.stride_kv,
        )


# Our field name -> transformers' name of the list that holds it, a stage an entry.
_TRANSFORMERS_FIELDS = {
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "patch_size": "patch_sizes",
    "patch_stride": "patch_stride",
    "patch_padding": "patch_padding",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "drop_rate": "drop_rate",
    "attention_drop_rate": "attention_drop_rate",
    "drop_path_rate": "drop_path_rate",
    "cls_token": "cls_token",
    "projection": "qkv_projection_method",
    "kernel_size": "kernel_qkv",
    "padding_q": "padding_q",
    "padding_kv": "padding_kv",
    "stride_q": "stride_q",
    "stride_kv": "stride_kv",
}


@dataclass(frozen=True)
class CvTConfig:
    """A whole CvT: its stages and what they share.

    Args:
        stages: The stages, first to last, as `StageConfig` or as dicts of its
            fields.
        activation: Of the MLPs: `"quick_gelu"`, `x * sigmoid(1.702 x)`, as the
            official code builds its models, or `"gelu"`, exact (erf).
        init: How linear layers start: `"trunc_norm"` (standard deviation 0.02)
            or `"xavier"` (Glorot uniform).
        final_norm: Whether what reaches the head is normalised.

    Raises:
        ValueError: If the values do not make a network.

    Example:
        >>> config = keras_cvt.CvTConfig(
        ...     stages=(
        ...         keras_cvt.StageConfig(32, 1, 1, 7, 4, 2),
        ...         keras_cvt.StageConfig(64, 2, 2, 3, 2, 1, cls_token=True),
        ...     )
        ... )
        >>> model = keras_cvt.CvT(config, classes=10)

    Reference:
        `ConvolutionalVisionTransformer` of the official `lib/models/cls_cvt.py`.
    """

    stages: tuple[StageConfig, ...]
    activation: str = "quick_gelu"
    init: str = "trunc_norm"
    final_norm: bool = True

    def __post_init__(self):
        if isinstance(self.stages, (str, Mapping)) or not self.stages:
            raise ValueError(
                "`stages` must be a non-empty sequence of StageConfig. "
                f"Received: stages={self.stages!r}"
            )
        stages = tuple(
            _from_fields(StageConfig, stage) if isinstance(stage, Mapping) else stage
            for stage in self.stages
        )
        for stage in stages:
            if not isinstance(stage, StageConfig):
                raise ValueError(
                    f"Every stage must be a StageConfig. Received: {stage!r}"
                )
        object.__setattr__(self, "stages", stages)
        validation.check_choice(validation.ACTIVATIONS, activation=self.activation)
        validation.check_choice(validation.INITS, init=self.init)
        validation.check_bool(final_norm=self.final_norm)

    def with_overrides(
        self,
        drop_rate: float | None = None,
        attention_drop_rate: float | None = None,
        drop_path_rate: float | None = None,
        activation: str | None = None,
    ) -> "CvTConfig":
        """Return a copy with other drop rates or another activation.

        Args:
            drop_rate: New `drop_rate` of every stage.
            attention_drop_rate: New `attention_drop_rate` of every stage.
            drop_path_rate: New `drop_path_rate` of the last stage, the only one
                that has any in the paper.
            activation: New activation.
        """
        every_stage = _given(
            drop_rate=drop_rate, attention_drop_rate=attention_drop_rate
        )
        stages = [replace(stage, **every_stage) for stage in self.stages]
        stages[-1] = replace(stages[-1], **_given(drop_path_rate=drop_path_rate))
        return replace(self, stages=tuple(stages), **_given(activation=activation))

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain dicts, lists and numbers."""
        return dataclasses.asdict(self) | {
            "stages": [dataclasses.asdict(stage) for stage in self.stages]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "CvTConfig":
        """Build a configuration from `to_dict()`'s result.

        Raises:
            ValueError: If a field is unknown, missing or out of range.
        """
        return _from_fields(cls, values)

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """Return the configuration as JSON, and write it to `path` if one is given."""
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | os.PathLike) -> "CvTConfig":
        """Read a configuration from JSON text or from a JSON file.

        A file written by transformers (`config.json` of a CvT) is understood too.

        Raises:
            ValueError: If the JSON does not describe a CvT.
        """
        text = os.fspath(source)
        if not text.lstrip().startswith("{"):
            text = Path(source).read_text(encoding="utf-8")
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Not JSON: {source}: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"Expected a JSON object. Received: {source}")
        if "stages" not in values and "embed_dim" in values:
            return cls.from_transformers(values)
        return cls.from_dict(values)

    @classmethod
    def from_transformers(
        cls, values: Mapping[str, Any] | str | os.PathLike
    ) -> "CvTConfig":
        """Build a configuration from transformers' `config.json`.

        The activation is `"gelu"`, which is what transformers computes, unless the
        file carries our own `activation` key. `layer_norm_eps` is ignored, as
        transformers' own code ignores it.

        Args:
            values: The file's content as a dict, or its path.

        Raises:
            ValueError: If it does not describe a CvT.
        """
        if not isinstance(values, Mapping):
            values = json.loads(Path(values).read_text(encoding="utf-8"))
        model_type = values.get("model_type", "cvt")
        if model_type != "cvt":
            raise ValueError(
                "Expected transformers' configuration of a CvT (model_type 'cvt'). "
                f"Received: model_type={model_type!r}"
            )
        missing = [n for n in ("embed_dim", "depth", "num_heads") if n not in values]
        if missing:
            raise ValueError(
                f"transformers' configuration lacks {missing}. "
                f"Received keys: {sorted(values)}"
            )
        lists = {
            ours: values[theirs]
            for ours, theirs in _TRANSFORMERS_FIELDS.items()
            if theirs in values
        }
        num_stages = len(values["embed_dim"])
        for ours, entries in lists.items():
            if not isinstance(entries, (list, tuple)) or len(entries) != num_stages:
                raise ValueError(
                    f"`{_TRANSFORMERS_FIELDS[ours]}` must list one value a stage "
                    f"({num_stages}). Received: {entries!r}"
                )
        stages = [
            {name: entries[i] for name, entries in lists.items()}
            for i in range(num_stages)
        ]
        return cls.from_dict(
            {
                "stages": stages,
                "activation": values.get("activation", "gelu"),
                "init": values.get("init", "trunc_norm"),
            }
        )

    def to_transformers(
        self,
        classes: int = 1000,
        channels: int = 3,
        image_size: int = 224,
        labels: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return what transformers' `config.json` holds for this network.

        Args:
            classes: Number of classes of the head.
            channels: Number of image channels.
            image_size: Height and width of the images, in pixels.
            labels: A name for each class; None means `LABEL_0` and so on.

        Returns:
            A dict of JSON types. `activation` and `init` are ours; transformers
            keeps them without reading them.

        Raises:
            ValueError: If transformers has no name for an option of this network.
        """
        obstacles = self._without_transformers_name()
        if obstacles:
            raise ValueError(
                f"transformers' configuration cannot express: {', '.join(obstacles)}"
            )
        lists = {
            theirs: [getattr(stage, ours) for stage in self.stages]
            for ours, theirs in _TRANSFORMERS_FIELDS.items()
        }
        names = labels or [f"LABEL_{i}" for i in range(classes)]
        return {
            "architectures": ["CvtForImageClassification"],
            "model_type": "cvt",
            "num_channels": channels,
            "image_size": image_size,
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
            "activation": self.activation,
            "init": self.init,
            **lists,
        }

    def _without_transformers_name(self):
        obstacles = [
            f"stage {i}'s {field.name}={getattr(stage, field.name)!r}"
            for i, stage in enumerate(self.stages)
            for field in fields(stage)
            if field.name not in _TRANSFORMERS_FIELDS
            and getattr(stage, field.name) != field.default
        ]
        return obstacles if self.final_norm else [*obstacles, "final_norm=False"]


def _given(**arguments):
    return {name: value for name, value in arguments.items() if value is not None}


def _from_fields(cls, values):
    known = {field.name: field for field in fields(cls)}
    unknown = sorted(set(values) - set(known))
    missing = [
        name
        for name, field in known.items()
        if name not in values and field.default is dataclasses.MISSING
    ]
    if unknown or missing:
        raise ValueError(
            f"{cls.__name__} takes the fields {list(known)}. "
            f"Unknown: {unknown}. Missing: {missing}."
        )
    return cls(**values)


def _three_stages(embed_dim, num_heads, depth, drop_path_rate):
    """The paper's Table 2: only widths, heads, depths and drop path vary."""
    last = {"drop_path_rate": drop_path_rate, "cls_token": True}
    return CvTConfig(
        stages=(
            StageConfig(embed_dim[0], depth[0], num_heads[0], 7, 4, 2),
            StageConfig(embed_dim[1], depth[1], num_heads[1], 3, 2, 1),
            StageConfig(embed_dim[2], depth[2], num_heads[2], 3, 2, 1, **last),
        )
    )


CVT_13 = _three_stages((64, 192, 384), (1, 3, 6), (1, 2, 10), drop_path_rate=0.1)
CVT_21 = _three_stages((64, 192, 384), (1, 3, 6), (1, 4, 16), drop_path_rate=0.1)
CVT_W24 = _three_stages((192, 768, 1024), (3, 12, 16), (2, 2, 20), drop_path_rate=0.3)


# vit-pytorch's names and defaults, a stage each.
_SIMPLIFIED_STAGES = tuple(
    {
        "emb_dim": dim,
        "emb_kernel": kernel,
        "emb_stride": stride,
        "proj_kernel": 3,
        "kv_proj_stride": 2,
        "heads": heads,
        "depth": depth,
        "mlp_mult": 4,
    }
    for dim, kernel, stride, heads, depth in (
        (64, 7, 4, 1, 1),
        (192, 3, 2, 3, 2),
        (384, 3, 2, 6, 10),
    )
)
SIMPLIFIED_ARGUMENTS = tuple(
    f"s{i}_{name}" for i, s in enumerate(_SIMPLIFIED_STAGES, 1) for name in s
)


def simplified(dropout: float = 0.0, **arguments: int) -> CvTConfig:
    """Return the configuration of vit-pytorch's short CvT.

    Heads of 64 channels and their scale, one convolution for keys and values, exact
    GELU, no class token, no norm before the head.

    Args:
        dropout: After the attention, of its weights, and twice in the MLP.
        **arguments: vit-pytorch's `s1_emb_dim`, `s1_emb_kernel`, `s1_emb_stride`,
            `s1_proj_kernel`, `s1_kv_proj_stride`, `s1_heads`, `s1_depth`,
            `s1_mlp_mult`, and so on for stages 2 and 3.

    Raises:
        ValueError: If an argument is unknown or out of range.

    Reference:
        `CvT` of `vit_pytorch/cvt.py`, lucidrains/vit-pytorch.
    """
    unknown = sorted(set(arguments) - set(SIMPLIFIED_ARGUMENTS))
    if unknown:
        raise ValueError(
            f"Expected arguments among {', '.join(SIMPLIFIED_ARGUMENTS)}. "
            f"Received: {unknown}"
        )
    stages = []
    for i, defaults in enumerate(_SIMPLIFIED_STAGES, 1):
        s = {name: arguments.get(f"s{i}_{name}", v) for name, v in defaults.items()}
        validation.check_int(
            1, **{f"s{i}_{n}": s[n] for n in ("emb_kernel", "proj_kernel")}
        )
        stages.append(
            StageConfig(
                s["emb_dim"],
                s["depth"],
                s["heads"],
                s["emb_kernel"],
                s["emb_stride"],
                s["emb_kernel"] // 2,
                mlp_ratio=s["mlp_mult"],
                qkv_bias=False,
                drop_rate=dropout,
                attention_drop_rate=dropout,
                kernel_size=s["proj_kernel"],
                padding_q=s["proj_kernel"] // 2,
                padding_kv=s["proj_kernel"] // 2,
                stride_kv=s["kv_proj_stride"],
                head_dim=64,
                scale="head_dim",
                shared_kv=True,
                embed_drop_rate=0.0,
            )
        )
    return CvTConfig(tuple(stages), activation="gelu", final_norm=False)
