"""The same network with fewer operations, for inference."""

import keras
import numpy as np

from keras_cvt.deploy.fused_layers import FusedStage
from keras_cvt.layers import ConvTransformerStage


def fuse(model: keras.Model) -> keras.Model:
    """Return a faster model that computes the same outputs, for inference only.

    - BatchNorm becomes part of the depthwise kernels and a bias behind them; not of
      the linear layers, as the class token skips the convolutions.
    - The attention scale becomes part of the query projection.
    - norm2's affine becomes part of the MLP's first layer, and QuickGELU's factor
      part of both. norm1's affine stays where convolutions or pooling pad with zeros
      behind it, and becomes part of `"linear"` projections.
    - Average pooling for keys and values runs once.
    - Where nothing reads a stage's map but all reads its class token, the stage's
      last block computes only the class token.

    Keys' and values' depthwise convolutions stay two: as one they are slower in every
    form that was tried (benchmarks/RESULTS.md).

    Args:
        model: A functional model with CvT stages: a `CvTModel`, or any functional
            model around one, such as a pyramid. It is left as it is.

    Returns:
        A new functional model of the same class with copies of all weights, inputs
        and outputs as `model`. It saves and loads as `.keras`; its stages are
        frozen. A model that is fused already is returned as it is.

    Raises:
        ValueError: If `model` is no functional model, holds no CvT stage, or holds
            stages that are quantized or have LoRA weights.

    Example:
        >>> fused = keras_cvt.deploy.fuse(keras_cvt.CvT13(weights=None))
        >>> fused.save("cvt13_fused.keras")
    """
    if any(isinstance(stage, FusedStage) for stage in _stages(model)):
        return model
    _check_float(model)
    token_only = _read_by_token_only(model)
    copies = {}

    def clone(layer):
        if isinstance(layer, ConvTransformerStage):
            config = layer.get_config() | {"token_only": layer in token_only}
            copies[layer] = FusedStage.from_config(config)
        else:
            copies[layer] = type(layer).from_config(layer.get_config())
        return copies[layer]

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        if getattr(layer, "token_only", False):
            # The graph has a place for the map, which nothing reads.
            return outputs, outputs
        return outputs

    fused = keras.models.clone_model(
        model, clone_function=clone, call_function=call, recursive=True
    )
    for layer, copy in copies.items():
        if isinstance(copy, FusedStage):
            _fold_stage(layer, copy)
        else:
            _copy(layer, copy)
    return fused


def _stages(model):
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ValueError(
            "Expected a functional model with CvT stages; around a Sequential one "
            "put `keras.Model(model.inputs, model.outputs)`. "
            f"Received: model={model!r}"
        )
    stages = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, ConvTransformerStage)
    ]
    if not stages:
        raise ValueError(f"Expected a model with CvT stages. Received: model={model!r}")
    return stages


def _check_float(model):
    for layer in model._flatten_layers():
        quantized = getattr(layer, "quantization_mode", None)
        lora = getattr(layer, "lora_enabled", False)
        if quantized or lora:
            raise ValueError(
                "Expected plain float weights: fuse before `quantize`, and fuse no "
                "LoRA weights; `export` takes `fuse=False`. "
                f"Received: {layer.path} with "
                f"quantization_mode={quantized!r}, lora_enabled={lora}"
            )


def _read_by_token_only(model):
    """Return the stages whose map nothing in the model reads."""
    if not hasattr(model, "operations"):
        return set()
    read = {id(tensor) for tensor in keras.tree.flatten(model.outputs)}
    found = set()
    for operation in model.operations:
        if isinstance(operation, keras.Model):
            found |= _read_by_token_only(operation)
        for node in operation._inbound_nodes:
            read |= {id(tensor) for tensor in node.input_tensors}
    for operation in model.operations:
        if not isinstance(operation, ConvTransformerStage):
            continue
        if operation.config.cls_token and len(operation._inbound_nodes) == 1:
            feature_map, token = operation.output
            if id(feature_map) not in read and id(token) in read:
                found.add(operation)
    return found


def _copy(layer, copy):
    if isinstance(layer, keras.Model) or not isinstance(layer, keras.Layer):
        return  # A model's layers are copied one by one; an operation has no state.
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
            arrays = _behind_norm(norm, *arrays)
        scale = attention.score_scale() if name == "proj_q" else 1.0
        _assign(getattr(fused, name), *(scale * array for array in arrays))
    _copy(attention.proj, fused.proj)
    if attention.projection == "dw_bn":
        if not fused.token_only:
            _fold_norm(attention.conv_proj_q, fused.conv_q)
        if attention.shared_kv:
            _fold_norm(attention.conv_proj_kv, fused.conv_kv)
        else:
            _fold_norm(attention.conv_proj_k, fused.conv_k)
            _fold_norm(attention.conv_proj_v, fused.conv_v)


def _fold_norm(conv_projection, conv):
    """Fold BatchNorm: scale (C,) into the kernel (K, K, C, 1), the rest a bias."""
    (kernel,) = _arrays(conv_projection.conv)
    gamma, beta, mean, variance = _arrays(conv_projection.bn)
    scale = gamma / np.sqrt(variance + conv_projection.bn.epsilon)
    _assign(conv, kernel * scale[:, None], beta - mean * scale)


def _fold_mlp(norm, mlp, fused):
    # x * sigmoid(a x) = silu(a x) / a
    factor = 1.702 if mlp.activation == "quick_gelu" else 1.0
    arrays = _behind_norm(norm, *_arrays(mlp.fc1))
    _assign(fused.fc1, *(factor * array for array in arrays))
    kernel, bias = _arrays(mlp.fc2)
    _assign(fused.fc2, kernel / factor, bias)


def _behind_norm(norm, kernel, bias=0.0):
    """Fold a norm's affine into the linear layer behind it."""
    gamma, beta = _arrays(norm)
    return gamma[:, None] * kernel, bias + beta @ kernel


def _arrays(layer):
    """Return a layer's variables in double precision, so that folding rounds once."""
    return [
        keras.ops.convert_to_numpy(variable).astype("float64")
        for variable in layer.variables
    ]


def _assign(layer, *arrays):
    for variable, array in zip(layer.variables, arrays, strict=True):
        variable.assign(array.astype("float32"))
