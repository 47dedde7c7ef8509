"""`CvT`, `CvT13`, `CvT21`, `CvTW24`: configuration, graph and weights together."""

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any

from keras_cvt import zoo
from keras_cvt.checkpoints import layouts, state_dict
from keras_cvt.checkpoints.sources import Checkpoint, resolve
from keras_cvt.config import SIMPLIFIED_ARGUMENTS, CvTConfig, simplified
from keras_cvt.models import CvTModel, build_model, check_arguments

logger = logging.getLogger(__name__)

_ARGUMENTS = """
    Args:
        include_top: Whether the model ends in the classification head. Defaults to
            `True`.
        weights: {weights}; the path of a checkpoint (file or folder) in any layout
            of `keras_cvt.checkpoints`; `"hf://org/repo"`, also with `@revision`; or
            `None` for fresh weights. A head of another number of classes starts
            fresh, and the first kernel is adapted to another number of channels; a
            log line says so. Defaults to {default}.
        input_tensor: Keras tensor to build on. Defaults to `None`.
        input_shape: (height, width, channels); height and width may be None.
            Defaults to `(None, None, 3)`: RGB images of any size.
        pooling: With `include_top=False`: `None` for the last stage's map (B, H / 16,
            W / 16, C) before the final norm; `"avg"` or `"max"` for that map pooled;
            `"token"` for the normalised class token that the head would see (without
            a class token the mean of the normalised map). Defaults to `None`.
        classes: Number of classes. Defaults to `1000`.
        classifier_activation: Activation of the head; `None` for logits. Defaults to
            `"softmax"`.
        include_preprocessing: Whether the model normalises its images itself and
            takes RGB of 0-255. Otherwise it takes normalised images. Defaults to
            `True`.
        name: The model's name.
        **overrides: `drop_rate` and `attention_drop_rate` of every stage,
            `drop_path_rate` of the last stage, and `activation` (`"quick_gelu"` or
            `"gelu"`), whatever the checkpoint's origin suggests.

    Returns:
        A `CvTModel`. Images are (B, H, W, C), channels last.

    Raises:
        ValueError: If an argument is out of range or the weights' name is unknown.
        OSError: If weights cannot be downloaded and are not cached.
        CheckpointError: If a checkpoint cannot be read or does not fit.

    Example:
        >>> model = {example}
"""

_OVERRIDES = {"drop_rate", "attention_drop_rate", "drop_path_rate", "activation"}


def _build(
    config: CvTConfig,
    weights: str | os.PathLike | Checkpoint | None,
    model: str | None,
    overrides: dict[str, Any],
    **arguments: Any,
) -> CvTModel:
    # First, so that a wrong argument costs no download.
    check_arguments(config, **arguments)
    unknown = sorted(set(overrides) - _OVERRIDES)
    if unknown:
        raise ValueError(f"Unknown arguments: {unknown}.")
    overrides = {name: v for name, v in overrides.items() if v is not None}
    config = config.with_overrides(**overrides)
    transform = zoo.find("imagenet", model).eval_transform
    if weights is None:
        return build_model(config, eval_transform=transform, **arguments)
    checkpoint = weights if isinstance(weights, Checkpoint) else resolve(weights, model)
    if "activation" not in overrides:
        config = config.with_overrides(activation=checkpoint.activation)
    if checkpoint.config is not None:
        _warn_of_differences(config, checkpoint.config)
    network = build_model(
        config, eval_transform=checkpoint.eval_transform or transform, **arguments
    )
    _fill(network, checkpoint)
    return network


def _fill(network, checkpoint):
    """Give a network a checkpoint's weights, and what goes with them."""
    channels = network.stages[0].patch_embed.proj.kernel.shape[-2]
    loaded = state_dict.assign(
        network, checkpoint.with_channels(channels).state, fresh_head=True
    ).loaded
    if checkpoint.class_names and layouts.HEAD_KERNEL in loaded:
        network.class_names = checkpoint.class_names
    network.source_weights = checkpoint.source


# What a network may train with, or starts from, other than its checkpoint.
_FREE = {
    "drop_rate",
    "attention_drop_rate",
    "drop_path_rate",
    "embed_drop_rate",
    "init",
    "activation",
}


def _warn_of_differences(config, trained):
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


def CvT(  # noqa: D417, N802
    config: CvTConfig,
    include_top: bool = True,
    weights: str | os.PathLike | Checkpoint | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "cvt",
    **overrides: Any,
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


CvT.__doc__ = f"{CvT.__doc__}\n" + _ARGUMENTS.replace(
    "Args:", "Args:\n        config: The `CvTConfig`.", 1
).format(
    weights='A name such as `"cvt13/imagenet"`',
    default="`None`",
    example="keras_cvt.CvT(keras_cvt.CvTConfig(stages), classes=10)",
)


def _published_builder(function_name: str, model: str) -> Callable[..., CvTModel]:
    def builder(
        include_top: bool = True,
        weights: str | os.PathLike | Checkpoint | None = "imagenet",
        input_tensor: Any = None,
        input_shape: tuple[int | None, ...] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Any = "softmax",
        include_preprocessing: bool = True,
        name: str = model,
        **overrides: Any,
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
            weights=f'`"imagenet"` or another tag of `list_weights({model!r})`',
            default='`"imagenet"`',
            example=f'keras_cvt.{function_name}(weights="imagenet", classes=5)',
        )
    )
    return builder


CvT13 = _published_builder("CvT13", "cvt13")
CvT21 = _published_builder("CvT21", "cvt21")
CvTW24 = _published_builder("CvTW24", "cvtw24")


def CvTSimplified(  # noqa: D417, N802
    include_top: bool = True,
    weights: str | os.PathLike | Checkpoint | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    include_preprocessing: bool = True,
    name: str = "cvt_simplified",
    dropout: float = 0.0,
    **arguments: Any,
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


CvTSimplified.__doc__ = f"{CvTSimplified.__doc__}\n" + _ARGUMENTS.replace(
    "        **overrides:",
    """        dropout: After the attention, of its weights, and twice in the MLP.
        s1_emb_dim: Channels of stage 1; like all that follow, the names and
            defaults of `vit_pytorch.cvt.CvT`: `s1_emb_kernel`, `s1_emb_stride`,
            `s1_proj_kernel`, `s1_kv_proj_stride`, `s1_heads`, `s1_depth`,
            `s1_mlp_mult`, and so on for `s2_` and `s3_`. Heads have 64 channels.
        **overrides:""",
).format(
    weights="The path of a state dict",
    default="`None`",
    example="keras_cvt.CvTSimplified(classes=10, s3_depth=4)",
)
