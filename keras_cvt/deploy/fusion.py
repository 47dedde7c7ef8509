"""Fold a network into one with fewer operations, for inference."""

from collections.abc import Callable

import keras
import numpy as np

from keras_cvt._utils import graphs
from keras_cvt.deploy.fused_layers import FusedStage
from keras_cvt.description import token_only_stages
from keras_cvt.layers import ConvTransformerStage, StageIntermediates


def fuse(model: keras.Model) -> keras.Model:
    """Return a faster model that computes the same outputs, for inference only.

    - BatchNorm becomes part of the depthwise kernels and a bias. It does not become
      part of the linear layers, because the class token skips the convolutions.
    - The attention scale becomes part of the query projection.
    - The affine of norm2 becomes part of the MLP's first layer. QuickGELU's factor
      becomes part of both layers.
    - The affine of norm1 becomes part of `"linear"` projections. It stays if
      convolutions or pooling follow, because they pad with zeros.
    - Average pooling for keys and values runs once.
    - If the model uses only the class token of a stage and not its map, the stage's
      last block computes only the class token.

    The depthwise convolutions of keys and values stay two. As one they are slower in
    every form that was tried (benchmarks/history/without_avx512.md).

    Args:
        model: A functional model with CvT stages: a `CvTModel`, or any functional
            model around one, such as a pyramid. It does not change.

    Returns:
        A new functional model of the same class, with the same inputs and outputs
        and copies of all weights, not compiled. It saves and loads as `.keras`. Its
        stages are frozen. A model that is fused already is returned as it is.

    Raises:
        ValueError: If `model` is not a functional model, has no CvT stage, or has
            layers that are quantized or have LoRA weights.

    Example:
        >>> fused = keras_cvt.deploy.fuse(keras_cvt.CvT13(weights=None))
        >>> fused.save("cvt13_fused.keras")
    """
    if any(isinstance(stage, FusedStage) for stage in _stages(model)):
        return model
    check_float(model)
    token_only = token_only_stages(model)

    def clone(layer):
        kind, config = type(layer), layer.get_config()
        if isinstance(layer, ConvTransformerStage):
            kind, config["token_only"] = FusedStage, layer in token_only
        return kind.from_config(config)

    return copy_layers(model, clone)


def copy_layers(
    model: keras.Model, clone: Callable[[keras.Layer], keras.Layer]
) -> keras.Model:
    """Return a model of copies of all layers, with their weights.

    Args:
        model: A functional model.
        clone: A function from a layer to its copy without weights. The copy of a
            stage may be a fused one.
    """
    copies, to_fold = {}, set()

    def remember(layer):
        copies[layer] = copy = clone(layer)
        if isinstance(copy, FusedStage) and not isinstance(layer, FusedStage):
            to_fold.add(copy)
        return copy

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        # The graph expects a map too. No layer uses it.
        alone = layer in to_fold and layer.token_only
        return (outputs, outputs) if alone else outputs

    copied = keras.models.clone_model(
        graphs.uncompiled(model),
        clone_function=remember,
        call_function=call,
        recursive=True,
    )
    for layer, copy in copies.items():
        if copy in to_fold:
            _fold_stage(layer, copy)
        else:
            _copy(layer, copy)
    return copied


def _stages(model):
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ValueError(
            "Expected a functional model with CvT stages. Wrap a Sequential model as "
            "`keras.Model(model.inputs, model.outputs)`. "
            f"Received: model={model!r}"
        )
    layers = model._flatten_layers()
    stages = [layer for layer in layers if isinstance(layer, ConvTransformerStage)]
    if not stages:
        raise ValueError(f"Expected a model with CvT stages. Received: model={model!r}")
    inside = [layer for layer in layers if isinstance(layer, StageIntermediates)]
    if inside:
        raise ValueError(
            "Expected a model without intermediate tensors, which a fused network does "
            f"not compute. Received: {inside[0].name} with {inside[0].intermediates}"
        )
    return stages


def check_float(model: keras.Model, lora: bool = True) -> None:
    """Raise ValueError if a layer is quantized or has LoRA weights.

    Args:
        model: The model.
        lora: Whether to look for LoRA weights too. Defaults to `True`.
    """
    for layer in model._flatten_layers():
        mode = getattr(layer, "quantization_mode", None)
        if mode:
            raise ValueError(
                "Expected float weights. Fuse or export the model as it was before "
                "`quantize`; `deploy.export(..., quantization=)` makes small files "
                f"itself. Received: {layer.path} with quantization_mode={mode!r}"
            )
        if lora and getattr(layer, "lora_enabled", False):
            raise ValueError(
                "Expected weights without LoRA's matrices. Save the model as `.keras` "
                "and load it, which can merge them, or export a float32 model with "
                f"`fuse=False`. Received: {layer.path} with lora_enabled=True"
            )


def _copy(layer, copy):
    if isinstance(layer, keras.Model) or not isinstance(layer, keras.Layer):
        return  # A model's layers are copied on their own. An operation has no state.
    for variable, target in zip(layer.variables, copy.variables, strict=True):
        target.assign(variable)


def _fold_stage(stage, fused):
    _copy(stage.patch_embed, fused.patch_embed)
    if stage.config.cls_token:
        _copy(stage.cls_token, fused.cls_token)
    for block, target in zip(stage.blocks.blocks, fused.blocks.blocks, strict=True):
        if target.norm1.affine:
            _copy(block.norm1, target.norm1)
        _fold_attention(block.norm1, block.attn, target.attn)
        _fold_mlp(block.norm2, block.mlp, target.mlp)


def _fold_attention(norm, attention, fused):
    for name in ("proj_q", "proj_k", "proj_v"):
        arrays = _arrays(getattr(attention, name))
        if attention.projection == "linear":
            arrays = _with_norm(norm, *arrays)
        scale = attention.score_scale() if name == "proj_q" else 1.0
        _assign(getattr(fused, name), *(scale * array for array in arrays))
    _copy(attention.proj, fused.proj)
    for letter in fused.convolved():
        projection = getattr(attention, f"conv_proj_{letter}")
        _fold_norm(projection, getattr(fused, f"conv_{letter}"))


def _fold_norm(conv_projection, conv):
    """Fold BatchNorm into the kernel (K, K, C, 1) and a bias (C,)."""
    (kernel,) = _arrays(conv_projection.conv)
    gamma, beta, mean, variance = _arrays(conv_projection.bn)
    scale = gamma / np.sqrt(variance + conv_projection.bn.epsilon)
    _assign(conv, kernel * scale[:, None], beta - mean * scale)


def _fold_mlp(norm, mlp, fused):
    # x * sigmoid(a x) = silu(a x) / a
    factor = 1.702 if mlp.activation == "quick_gelu" else 1.0
    arrays = _with_norm(norm, *_arrays(mlp.fc1))
    _assign(fused.fc1, *(factor * array for array in arrays))
    kernel, bias = _arrays(mlp.fc2)
    _assign(fused.fc2, kernel / factor, bias)


def _with_norm(norm, kernel, bias=0.0):
    """Return the linear layer after a norm with the norm's affine folded in."""
    gamma, beta = _arrays(norm)
    return gamma[:, None] * kernel, bias + beta @ kernel


def _arrays(layer):
    """Return a layer's variables in double precision: folding then rounds once."""
    arrays = map(keras.ops.convert_to_numpy, layer.variables)
    return [array.astype("float64") for array in arrays]


def _assign(layer, *arrays):
    for variable, array in zip(layer.variables, arrays, strict=True):
        variable.assign(array.astype("float32"))
