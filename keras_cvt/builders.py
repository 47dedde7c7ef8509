"""CvT with or without weights: configuration, graph and checkpoint together."""

import dataclasses
import logging
import os

from keras_cvt import zoo
from keras_cvt.checkpoints import assign
from keras_cvt.config import SIMPLIFIED_ARGUMENTS, CvTConfig, simplified
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.models import CvTModel, build_model
from keras_cvt.weights import Checkpoint, resolve

logger = logging.getLogger(__name__)

_ARGUMENTS = """
    Args:
        include_top: Whether the model ends in the classification head.
        weights: {weights}; the path of a checkpoint (file or folder) in any layout
            of `keras_cvt.checkpoints`; `"hf://org/repo"`; a checkpoint already read by
            `keras_cvt.weights.resolve`; or None for fresh weights.
            A head of another number of classes starts fresh, and the first kernel is
            adapted to another number of channels; a log line says so.
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


def _build(config, weights, model, overrides, **arguments) -> CvTModel:
    if not isinstance(config, CvTConfig):
        raise ValueError(f"Expected a CvTConfig. Received: config={config!r}")
    unknown = sorted(
        set(overrides)
        - {"drop_rate", "attention_drop_rate", "drop_path_rate", "activation"}
    )
    if unknown:
        raise ValueError(f"Unknown arguments: {unknown}.")
    overrides = {name: v for name, v in overrides.items() if v is not None}
    # First, so that a wrong argument costs no download.
    network = _network(config, overrides, model, arguments)
    if weights is None:
        return network
    checkpoint = weights
    if not isinstance(weights, Checkpoint):
        checkpoint = resolve(weights, model)
    overrides = {"activation": checkpoint.activation or config.activation} | overrides
    if overrides["activation"] != network.cvt_config.activation:
        network = _network(config, overrides, model, arguments)
    if checkpoint.config is not None:
        _compare(config, checkpoint.config)
    if checkpoint.eval_transform is not None:
        network.eval_transform = _at_input_size(checkpoint.eval_transform, network)
    _, _, _, channels = network.get_layer("preprocessing").output.shape
    loaded = assign.assign(
        network, checkpoint.with_channels(channels).state, fresh_head=True
    )
    if checkpoint.labels and "head.weight" in loaded.loaded:
        network.labels = checkpoint.labels
    return network


# What a network may train with, or starts from, other than its checkpoint.
_FREE = {
    "drop_rate",
    "attention_drop_rate",
    "drop_path_rate",
    "embed_drop_rate",
    "init",
    "activation",
}


def _compare(config, trained):
    """Say where weights were trained in another network of the same shapes."""
    pairs = [(config, trained, "")]
    pairs += [
        (stage, theirs, f"stage {i}'s ")
        for i, (stage, theirs) in enumerate(
            zip(config.stages, trained.stages, strict=False)
        )
    ]
    differences = [
        f"{where}{field.name}={getattr(ours, field.name)!r}, "
        f"trained with {getattr(theirs, field.name)!r}"
        for ours, theirs, where in pairs
        for field in dataclasses.fields(ours)
        if field.name not in {*_FREE, "stages"}
        and getattr(ours, field.name) != getattr(theirs, field.name)
    ]
    if differences:
        logger.warning(
            "The weights were trained in another network: %s.", "; ".join(differences)
        )


def _network(config, overrides, model, arguments):
    transform = zoo.find("imagenet", model).eval_transform
    network = build_model(
        config.with_overrides(**overrides), eval_transform=transform, **arguments
    )
    network.eval_transform = _at_input_size(transform, network)
    return network


def _at_input_size(transform, network):
    _, height, width, _ = network.get_layer("preprocessing").output.shape
    if None in (height, width):
        return transform
    return EvalTransform((height, width), transform.crop_ratio)


def CvT(  # noqa: D417, N802
    config: CvTConfig,
    include_top: bool = True,
    weights: str | os.PathLike | Checkpoint | None = None,
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
        overrides,
        input_shape=input_shape,
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


def _published_builder(function_name, model):
    def builder(
        include_top: bool = True,
        weights: str | os.PathLike | Checkpoint | None = "imagenet",
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
            zoo.MODELS[model],
            weights,
            model,
            overrides,
            input_shape=input_shape,
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


CvT13 = _published_builder("CvT13", "cvt13")
CvT21 = _published_builder("CvT21", "cvt21")
CvTW24 = _published_builder("CvTW24", "cvtw24")


def CvTSimplified(  # noqa: D417, N802
    include_top: bool = True,
    weights: str | os.PathLike | Checkpoint | None = None,
    input_tensor=None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation="softmax",
    include_preprocessing: bool = True,
    name: str = "cvt_simplified",
    dropout: float = 0.0,
    **arguments,
) -> CvTModel:
    """Build the short CvT of vit-pytorch, which tutorials use."""
    stages = {n: arguments.pop(n) for n in SIMPLIFIED_ARGUMENTS if n in arguments}
    return CvT(
        simplified(dropout, **stages),
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        include_preprocessing=include_preprocessing,
        name=name,
        **arguments,
    )


CvTSimplified.__doc__ += "\n" + _ARGUMENTS.replace(
    "        **overrides:",
    """        dropout: After the attention, of its weights, and twice in the MLP.
        s1_emb_dim: Channels of stage 1; like all that follow, the names and
            defaults of `vit_pytorch.cvt.CvT`: `s1_emb_kernel`, `s1_emb_stride`,
            `s1_proj_kernel`, `s1_kv_proj_stride`, `s1_heads`, `s1_depth`,
            `s1_mlp_mult`, and so on for `s2_` and `s3_`. Heads have 64 channels.
        **overrides:""",
).format(weights="None")
