"""`CvT`, `CvT13`, `CvT21`, `CvTW24`: configuration, graph and weights together."""

import dataclasses
import logging
import os
from collections.abc import Callable
from typing import Any

from keras_cvt import zoo
from keras_cvt._utils import arguments
from keras_cvt.checkpoints import layouts, state_dict
from keras_cvt.checkpoints.sources import Checkpoint, resolve
from keras_cvt.config import SIMPLIFIED_ARGUMENTS, CvTConfig, simplified
from keras_cvt.models import CvTModel, build_model, check_arguments

logger = logging.getLogger(__name__)

_OVERRIDES = {"drop_rate", "attention_drop_rate", "drop_path_rate", "activation"}


def _build(
    config: CvTConfig,
    model: str | None,
    weights: str | os.PathLike | Checkpoint | None,
    overrides: dict[str, Any],
    given: dict[str, Any],
) -> CvTModel:
    """Build a network; `given` is a builder's `locals()`, with all other arguments."""
    options = arguments.select(check_arguments, {**given, "config": config})
    # First, so that a wrong argument costs no download.
    check_arguments(**options)
    unknown = sorted(set(overrides) - _OVERRIDES)
    if unknown:
        raise ValueError(f"Unknown arguments: {unknown}.")
    overrides = {name: v for name, v in overrides.items() if v is not None}
    options["config"] = config = config.with_overrides(**overrides)
    transform = zoo.find("imagenet", model).eval_transform
    if weights is None:
        return build_model(**options, eval_transform=transform)
    if isinstance(weights, Checkpoint):
        checkpoint = weights
    else:
        checkpoint = resolve(weights, model, config)
    if "activation" not in overrides:
        activation = checkpoint.activation
        options["config"] = config = config.with_overrides(activation=activation)
    if checkpoint.config is not None:
        _warn_of_differences(config, checkpoint.config)
    network = build_model(
        **options, eval_transform=checkpoint.eval_transform or transform
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
_FREE = _OVERRIDES | {"embed_drop_rate", "init"}


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
        if field.name not in _FREE | {"stages"}
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
    """Build the CvT of any configuration.

    Args:
        config: The `CvTConfig`.
        include_top: Whether the model ends in the classification head. Defaults to
            `True`.
        weights: A name such as `"cvt13/imagenet"`; the path of a checkpoint (file or
            folder) in any layout of `keras_cvt.checkpoints`; `"hf://org/repo"`, also
            with `@revision`; or `None` for fresh weights. A head of another number of
            classes starts fresh, and the first kernel is adapted to another number of
            channels; a log line says so. Defaults to `None`.
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
        OSError: If weights cannot be downloaded and are not cached. Without a network
            it is a `ConnectionError`, which says where the file is.
        CheckpointError: If a checkpoint cannot be read or does not fit.

    Example:
        >>> model = keras_cvt.CvT(config, classes=10)
    """
    return _build(config, None, weights, overrides, locals())


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
        return _build(zoo.MODELS[model], model, weights, overrides, locals())

    builder.__name__ = builder.__qualname__ = function_name
    text = CvT.__doc__ or ""  # python -OO has none
    for of_cvt, own in (
        ("CvT of any configuration", f"{function_name} of the paper, Table 2"),
        ("        config: The `CvTConfig`.\n", ""),
        ('A name such as `"cvt13/', f'A tag of `list_weights("{model}")` such as `"'),
        ("says so. Defaults to `None`", 'says so. Defaults to `"imagenet"`'),
        ("CvT(config, classes=10)", f"{function_name}(classes=5)"),
    ):
        text = text.replace(of_cvt, own)
    builder.__doc__ = text
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
    **overrides: Any,
) -> CvTModel:
    """Build the short CvT of vit-pytorch, which tutorials use.

    The arguments that are not described here are those of `CvT`.

    Args:
        weights: The path of a state dict, or what else `CvT` takes. Defaults to `None`.
        name: The model's name.
        dropout: Dropout rate of the attention weights, after the attention, and twice
            in the MLP. Defaults to `0.0`.
        **overrides: Those of `CvT`, and the arguments of `vit_pytorch.cvt.CvT` with its
            defaults: `s1_emb_dim` (channels of stage 1), `s1_emb_kernel`,
            `s1_emb_stride`, `s1_proj_kernel`, `s1_kv_proj_stride`, `s1_heads`,
            `s1_depth`, `s1_mlp_mult`, and so on for `s2_` and `s3_`. Heads have 64
            channels.

    Returns:
        A `CvTModel`. Images are (B, H, W, C), channels last.

    Raises:
        ValueError: If an argument is unknown or out of range.
        CheckpointError: If a checkpoint cannot be read or does not fit.

    Example:
        >>> model = keras_cvt.CvTSimplified(classes=10, s3_depth=4)
    """
    stages = {n: overrides.pop(n) for n in SIMPLIFIED_ARGUMENTS if n in overrides}
    config = simplified(dropout, **stages)
    return _build(config, None, weights, overrides, locals())
