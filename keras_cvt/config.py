"""The architecture of a CvT as immutable records.

All numbers of the published architectures are in this module.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from keras_cvt._utils import arguments, validation
from keras_cvt._utils.json_fields import JsonFields


@dataclass(frozen=True)
class StageConfig(JsonFields):
    """The configuration of one stage.

    A stage is a convolutional token embedding followed by Transformer blocks.

    Args:
        embed_dim: Number of channels of the stage's tokens.
        depth: Number of Transformer blocks.
        num_heads: Number of attention heads. Must divide `embed_dim`, unless
            `head_dim` is given.
        patch_size: Kernel size of the convolutional token embedding, in pixels of
            the image or positions of the map.
        patch_stride: Stride of the embedding.
        patch_padding: Zeros added on every side before the embedding.
        mlp_ratio: Width of the MLP's hidden layer, as a multiple of `embed_dim`.
            Defaults to `4.0`.
        qkv_bias: Whether the query, key and value layers have a bias. Defaults to
            `True`.
        drop_rate: Dropout rate after the embedding, the attention and both layers of
            the MLP, in [0, 1). Defaults to `0.0`.
        attention_drop_rate: Dropout rate of the attention weights, in [0, 1).
            Defaults to `0.0`.
        drop_path_rate: Rate of stochastic depth of the last block, in [0, 1). From
            the first block to the last the rates rise linearly from 0. Defaults to
            `0.0`.
        cls_token: Whether the stage adds a class token. Defaults to `False`.
        projection: Projection of the keys and values: `"dw_bn"` (depthwise
            convolution and BatchNorm), `"avg"` (average pooling) or `"linear"` (no
            convolution). Defaults to `"dw_bn"`.
        kernel_size: Kernel size of the projections. Defaults to `3`.
        padding_q: Zeros that the query projection adds on every side. Defaults to
            `1`.
        padding_kv: Zeros that the key and value projections add on every side.
            Defaults to `1`.
        stride_q: Stride of the query projection. With `"dw_bn"` it must be 1, so
            that the residual has the same shape. Defaults to `1`.
        stride_kv: Stride of the key and value projections. Defaults to `2`.
        head_dim: Number of channels of each head, or None for
            `embed_dim / num_heads`. Defaults to `None`.
        scale: `"embed_dim"` multiplies the attention scores by `embed_dim ** -0.5`,
            `"head_dim"` by the number of channels of a head `** -0.5`. Defaults to
            `"embed_dim"`.
        shared_kv: Whether keys and values share one convolutional projection. They
            have separate linear layers in any case. Defaults to `False`.
        embed_drop_rate: Dropout rate after the embedding, or None for `drop_rate`.
            Defaults to `None`.

    Raises:
        ValueError: If the values do not make a network.

    Example:
        >>> stage = keras_cvt.StageConfig(
        ...     64, depth=1, num_heads=1, patch_size=7, patch_stride=4, patch_padding=2
        ... )

    Reference:
        Paper section 3 and Table 2; `spec` of the official
        `lib/models/cls_cvt.py`. The last four fields are those of
        `vit_pytorch/cvt.py` in lucidrains/vit-pytorch.
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
        sizes = {n: getattr(self, n) for n in ("depth", "patch_size", "patch_stride")}
        validation.check_int(1, **sizes)
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
            **arguments.select(validation.check_projections, vars(self))
        )


# Fields of a stage that transformers does not have.
_NOT_IN_TRANSFORMERS = ("head_dim", "scale", "shared_kv", "embed_drop_rate")

# Field of a stage -> transformers' name of the list with one entry per stage.
_TRANSFORMERS_FIELDS = {
    field.name: field.name
    for field in fields(StageConfig)
    if field.name not in _NOT_IN_TRANSFORMERS
} | {
    "patch_size": "patch_sizes",
    "projection": "qkv_projection_method",
    "kernel_size": "kernel_qkv",
}


@dataclass(frozen=True)
class CvTConfig(JsonFields):
    """The configuration of a network.

    Args:
        stages: The stages, first to last: instances of `StageConfig` or dicts with
            its fields.
        activation: Activation of the MLPs. `"quick_gelu"` is `x * sigmoid(1.702 x)`,
            which the official code uses. `"gelu"` is the exact GELU. Defaults to
            `"quick_gelu"`.
        init: Initial values of the linear layers: `"trunc_norm"` (standard deviation
            0.02) or `"xavier"` (Glorot uniform). Defaults to `"trunc_norm"`.
        final_norm: Whether there is a LayerNorm before the head. Defaults to `True`.

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
        is_sequence = isinstance(self.stages, Sequence)
        if not is_sequence or isinstance(self.stages, str) or not self.stages:
            raise ValueError(
                "`stages` must be a non-empty sequence of StageConfig. "
                f"Received: stages={self.stages!r}"
            )
        stages = tuple(
            stage if isinstance(stage, StageConfig) else StageConfig.from_dict(stage)
            for stage in self.stages
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
            drop_rate: New `drop_rate` of every stage. Defaults to `None`, no change.
            attention_drop_rate: New `attention_drop_rate` of every stage. Defaults to
                `None`.
            drop_path_rate: New `drop_path_rate` of the last stage, the only one with
                stochastic depth in the paper. Defaults to `None`.
            activation: New activation. Defaults to `None`.

        Raises:
            ValueError: If a value is out of range.
        """
        every_stage = _given(
            drop_rate=drop_rate, attention_drop_rate=attention_drop_rate
        )
        stages = [replace(stage, **every_stage) for stage in self.stages]
        stages[-1] = replace(stages[-1], **_given(drop_path_rate=drop_path_rate))
        return replace(self, stages=tuple(stages), **_given(activation=activation))

    def to_json(self, path: str | os.PathLike | None = None) -> str:
        """Return the configuration as JSON.

        Args:
            path: The file to write the JSON to. Defaults to `None`, no file.
        """
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | os.PathLike) -> "CvTConfig":
        """Read a configuration from JSON.

        Args:
            source: The path of a JSON file, or JSON text that starts with `{`. It
                holds the fields of `CvTConfig`, or those of transformers'
                `config.json`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the JSON does not describe a CvT.
        """
        values = _read_json(source)
        if "stages" not in values and "embed_dim" in values:
            return cls.from_transformers(values)
        return cls.from_dict(values)

    @classmethod
    def from_transformers(
        cls, values: Mapping[str, Any] | str | os.PathLike
    ) -> "CvTConfig":
        """Return the network that transformers' `config.json` describes.

        transformers always computes the exact GELU. So the activation is `"gelu"`,
        unless there is a key `activation`, which `to_transformers` adds.
        `layer_norm_eps` has no effect, as in transformers.

        Args:
            values: The content of the file as a dict, or its path.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it does not describe a CvT.
        """
        if not isinstance(values, Mapping):
            values = _read_json(values)
        model_type = values.get("model_type", "cvt")
        if model_type != "cvt":
            raise ValueError(
                "Expected transformers' configuration of a CvT (model_type 'cvt'). "
                f"Received: model_type={model_type!r}"
            )
        embed_dim = values.get("embed_dim")
        num_stages = len(embed_dim) if isinstance(embed_dim, (list, tuple)) else 0
        lists: dict[str, Any] = {"embed_dim": embed_dim} | {
            ours: values[theirs]
            for ours, theirs in _TRANSFORMERS_FIELDS.items()
            if theirs in values
        }
        for ours, entries in lists.items():
            if not isinstance(entries, (list, tuple)) or len(entries) != num_stages:
                raise ValueError(
                    f"`{_TRANSFORMERS_FIELDS[ours]}` must be a list with one value per "
                    f"stage ({num_stages}). Received: {entries!r}"
                )
        rows = zip(*lists.values(), strict=True)
        stages = [dict(zip(lists, row, strict=True)) for row in rows]
        activation = values.get("activation", "gelu")
        init = values.get("init", "trunc_norm")
        return cls.from_dict({"stages": stages, "activation": activation, "init": init})

    def to_transformers(
        self,
        classes: int = 1000,
        channels: int = 3,
        image_size: int = 224,
        class_names: Sequence[str] | None = None,
        *,
        labels: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Return the content of transformers' `config.json` for this network.

        Args:
            classes: Number of classes of the head. Defaults to `1000`.
            channels: Number of image channels. Defaults to `3`.
            image_size: Height and width of the images, in pixels. Defaults to `224`.
            class_names: One name for each class. Defaults to `None`: `LABEL_0`,
                `LABEL_1` and so on.
            labels: `class_names` in version 0.1.0.

        Returns:
            A dict of JSON types. transformers keeps the keys `activation` and `init`
            but does not use them.

        Raises:
            ValueError: If transformers has no field for an option of this network.
        """
        obstacles = self._without_transformers_name()
        if obstacles:
            raise ValueError(
                f"transformers' configuration cannot express: {', '.join(obstacles)}"
            )
        lists: dict[str, list] = {
            theirs: [getattr(stage, ours) for stage in self.stages]
            for ours, theirs in _TRANSFORMERS_FIELDS.items()
        }
        # transformers refuses a whole number such as 4 for these.
        for name in ("mlp_ratio", "drop_rate", "attention_drop_rate", "drop_path_rate"):
            lists[name] = [float(value) for value in lists[name]]
        return {
            "architectures": ["CvtForImageClassification"],
            "model_type": "cvt",
            "num_channels": channels,
            "image_size": image_size,
            **id_maps(class_names or labels, classes),
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


def id_maps(class_names: Sequence[str] | None, classes: int) -> dict[str, Any]:
    """Return transformers' fields for class names; without names, its default."""
    names = class_names or [f"LABEL_{i}" for i in range(classes)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _given(**arguments):
    return {name: value for name, value in arguments.items() if value is not None}


def _read_json(source):
    """Return the JSON object in a file or in a text."""
    text = os.fspath(source)
    try:
        if not text.lstrip().startswith("{"):
            text = Path(source).read_text(encoding="utf-8")
        values = json.loads(text)
    except ValueError as error:  # of the encoding or of JSON
        raise ValueError(
            "Expected the configuration of a network in JSON, such as a config.json "
            f"({error}). Received: {source}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected a JSON object. Received: {source}")
    return values


def _three_stages(embed_dim, num_heads, depth, drop_path_rate):
    """Return a network of the paper's Table 2, which all share the other values."""
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


# vit-pytorch's name -> our field of a stage, and the default for each stage.
_SIMPLIFIED: dict[str, tuple[str, tuple[int, int, int]]] = {
    "emb_dim": ("embed_dim", (64, 192, 384)),
    "emb_kernel": ("patch_size", (7, 3, 3)),
    "emb_stride": ("patch_stride", (4, 2, 2)),
    "proj_kernel": ("kernel_size", (3, 3, 3)),
    "kv_proj_stride": ("stride_kv", (2, 2, 2)),
    "heads": ("num_heads", (1, 3, 6)),
    "depth": ("depth", (1, 2, 10)),
    "mlp_mult": ("mlp_ratio", (4, 4, 4)),
}
SIMPLIFIED_ARGUMENTS = tuple(f"s{i}_{name}" for i in (1, 2, 3) for name in _SIMPLIFIED)


def simplified(dropout: float = 0.0, **values: int) -> CvTConfig:
    """Return the configuration of vit-pytorch's CvT, a simplified CvT-13.

    Each head has 64 channels, and the scores are scaled by them. Keys and values share
    a convolution. The activation is the exact GELU. There is no class token, and no
    norm before the head.

    Args:
        dropout: Dropout rate of the attention weights, after the attention and after
            both layers of the MLP, in [0, 1). Defaults to `0.0`.
        **values: Arguments of vit-pytorch's `CvT`, with its defaults:
            `s1_emb_dim`, `s1_emb_kernel`, `s1_emb_stride`, `s1_proj_kernel`,
            `s1_kv_proj_stride`, `s1_heads`, `s1_depth` and `s1_mlp_mult`, and the
            same for `s2_` and `s3_`.

    Raises:
        ValueError: If an argument is unknown or out of range.

    Reference:
        `CvT` of `vit_pytorch/cvt.py`, lucidrains/vit-pytorch.
    """
    unknown = sorted(set(values) - set(SIMPLIFIED_ARGUMENTS))
    if unknown:
        raise ValueError(
            f"Expected some of {', '.join(SIMPLIFIED_ARGUMENTS)}. Received: {unknown}"
        )
    stages = []
    for i in (1, 2, 3):
        fields: dict[str, Any] = {}
        for name, (field, defaults) in _SIMPLIFIED.items():
            fields[field] = values.get(f"s{i}_{name}", defaults[i - 1])
            if name.endswith("_kernel"):
                validation.check_int(1, **{f"s{i}_{name}": fields[field]})
        stage = StageConfig(
            **fields,
            patch_padding=fields["patch_size"] // 2,
            qkv_bias=False,
            drop_rate=dropout,
            attention_drop_rate=dropout,
            padding_q=fields["kernel_size"] // 2,
            padding_kv=fields["kernel_size"] // 2,
            head_dim=64,
            scale="head_dim",
            shared_kv=True,
            embed_drop_rate=0.0,
        )
        stages.append(stage)
    return CvTConfig(tuple(stages), activation="gelu", final_norm=False)
