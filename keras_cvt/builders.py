"""CvT with or without weights: configuration, graph and checkpoint together."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cvt import config as configs
from keras_cvt import hub_files, zoo
from keras_cvt.checkpoints import assign, layouts, readers
from keras_cvt.config import CvTConfig
from keras_cvt.models import CvTModel, build_model
from keras_cvt.preprocessing import EvalTransform

logger = logging.getLogger(__name__)

_ARGUMENTS = """
    Args:
        include_top: Whether the model ends in the classification head.
        weights: {weights}; the path of a checkpoint (file or folder) in any layout
            of `keras_cvt.checkpoints`; `"hf://org/repo"`; or None for fresh weights.
            A head of another number of classes starts fresh, and a log line says so.
        input_tensor: Optional Keras tensor to build on.
        input_shape: (height, width, channels); None means (None, None, 3), any size.
        pooling: With `include_top=False`: None, the last stage's map (B, H / 16,
            W / 16, C) before the final norm; `"avg"` or `"max"`, that map pooled;
            `"token"`, the normalised class token that the head would see (without
            a class token the mean of the normalised map).
        classes: Number of classes.
        classifier_activation: Activation of the head; None gives logits.
        include_preprocessing: Whether the model normalises its images itself and
            takes RGB of 0-255. Otherwise it takes normalised images.
        name: The model's name.
        **overrides: `drop_rate` and `attention_drop_rate` of every stage,
            `drop_path_rate` of the last stage, `activation` (`"quick_gelu"` or
            `"gelu"`) whatever the checkpoint's origin suggests.

    Returns:
        A `CvTModel`. Images are (B, H, W, C), channels last.

    Raises:
        ValueError: If an argument is out of range or the weights' name is unknown.
        OSError: If weights cannot be downloaded and are not cached.
        CheckpointError: If a checkpoint cannot be read or does not fit.
"""


@dataclass(frozen=True)
class _Checkpoint:
    """Weights at hand, and what their origin tells."""

    state: dict[str, Any]
    eval_transform: EvalTransform | None = None
    activation: str | None = None


def _build(config, weights, model, input_shape, overrides, **arguments) -> CvTModel:
    if not isinstance(config, CvTConfig):
        raise ValueError(f"Expected a CvTConfig. Received: config={config!r}")
    unknown = sorted(
        set(overrides)
        - {"drop_rate", "attention_drop_rate", "drop_path_rate", "activation"}
    )
    if unknown:
        raise ValueError(f"Unknown arguments: {unknown}.")
    checkpoint = None if weights is None else _resolve(weights, model)
    if checkpoint is not None and checkpoint.activation is not None:
        overrides = {"activation": checkpoint.activation} | overrides
    network = build_model(
        config.with_overrides(**overrides),
        eval_transform=_eval_transform(checkpoint, model, input_shape),
        input_shape=input_shape,
        **arguments,
    )
    if checkpoint is not None:
        assign.assign(network, checkpoint.state, fresh_head=True)
    return network


def _resolve(weights, model) -> _Checkpoint:
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(
            "`weights` must be None, a name, a path or 'hf://org/repo'. "
            f"Received: weights={weights!r}"
        )
    if isinstance(weights, str) and weights.startswith(hub_files.SCHEME):
        return _from_hub(weights.removeprefix(hub_files.SCHEME))
    try:
        # First, so that a folder called "imagenet" cannot stand in for the weights.
        return _published(zoo.find(str(weights), model))
    except zoo.UnknownWeightsError:
        path = Path(weights)
        if not path.exists():
            raise
    if path.is_dir():
        path = hub_files.find_checkpoint(path)
    config_path = path.with_name("config.json")
    return _from_file(
        path, hub_files.read_config(config_path) if config_path.is_file() else None
    )


def _published(record) -> _Checkpoint:
    state = readers.read_checkpoint(zoo.fetch(record))
    return _Checkpoint(state, record.eval_transform)


def _from_hub(repo_id) -> _Checkpoint:
    record = zoo.find_repo(repo_id)
    if record is not None:
        return _published(record)
    return _from_file(
        hub_files.download_checkpoint(repo_id), hub_files.download_config(repo_id)
    )


def _from_file(path, config) -> _Checkpoint:
    state, layout = layouts.to_official(readers.read_checkpoint(path))
    if not layout.startswith("transformers"):
        return _Checkpoint(state)
    activation = (config or {}).get("activation")
    if activation is None:
        activation = "gelu"
        logger.warning(
            "%s is in transformers' layout, whose models compute exact GELU: loaded "
            "with activation='gelu'. For a copy of the published weights pass "
            "activation='quick_gelu'.",
            path,
        )
    return _Checkpoint(state, activation=activation)


def _eval_transform(checkpoint, model, input_shape):
    """The weights' own transform, or the model's usual one, at the input's size."""
    transform = checkpoint.eval_transform if checkpoint else None
    if transform is None:
        transform = zoo.find("imagenet", model).eval_transform
    if input_shape is None or None in input_shape[:2] or len(input_shape) != 3:
        return transform
    return EvalTransform(tuple(input_shape[:2]), transform.crop_ratio)


def CvT(  # noqa: D417, N802
    config: CvTConfig,
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor=None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation="softmax",
    include_preprocessing: bool = True,
    name: str = "cvt",
    **overrides,
) -> CvTModel:
    """Build the CvT of any configuration."""
    return _build(
        config,
        weights,
        None,
        input_shape,
        overrides,
        include_top=include_top,
        input_tensor=input_tensor,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name,
    )


CvT.__doc__ += "\n" + _ARGUMENTS.replace(
    "Args:", "Args:\n        config: The `CvTConfig`.", 1
).format(weights="None")


def _published_builder(function_name, model, config):
    def builder(
        include_top: bool = True,
        weights: str | os.PathLike | None = "imagenet",
        input_tensor=None,
        input_shape: tuple[int | None, ...] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation="softmax",
        include_preprocessing: bool = True,
        name: str = model,
        **overrides,
    ) -> CvTModel:
        return _build(
            config,
            weights,
            model,
            input_shape,
            overrides,
            include_top=include_top,
            input_tensor=input_tensor,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            include_preprocessing=include_preprocessing,
            name=name,
        )

    builder.__name__ = builder.__qualname__ = function_name
    builder.__doc__ = (
        f"Build {function_name} of the paper (arXiv 2103.15808, Table 2).\n"
        + _ARGUMENTS.format(
            weights=f'`"imagenet"` or another tag of `list_weights({model!r})`'
        )
    )
    return builder


CvT13 = _published_builder("CvT13", "cvt13", configs.CVT_13)
CvT21 = _published_builder("CvT21", "cvt21", configs.CVT_21)
CvTW24 = _published_builder("CvTW24", "cvtw24", configs.CVT_W24)
