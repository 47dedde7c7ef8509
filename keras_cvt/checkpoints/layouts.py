"""Name maps: every layout that users hold, to and from the official one.

The canonical layout is the official state dict: keys such as
`stage2.blocks.3.attn.proj_q.weight`, arrays of PyTorch's shapes (convolutions
(out, in, height, width), linear layers (out, in)).
"""

import re
from collections.abc import Mapping

import numpy as np

from keras_cvt.errors import CheckpointError

# Official name of a module inside a block or a stage -> transformers' name.
_TRANSFORMERS_MODULES = {
    "patch_embed.proj": "embedding.convolution_embeddings.projection",
    "patch_embed.norm": "embedding.convolution_embeddings.normalization",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj_q": "attention.attention.projection_query",
    "attn.proj_k": "attention.attention.projection_key",
    "attn.proj_v": "attention.attention.projection_value",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
} | {
    f"attn.conv_proj_{letter}.{ours}": (
        f"attention.attention.convolution_projection_{word}"
        f".convolution_projection.{theirs}"
    )
    for letter, word in (("q", "query"), ("k", "key"), ("v", "value"))
    for ours, theirs in (("conv", "convolution"), ("bn", "normalization"))
}
_OFFICIAL_MODULES = {theirs: ours for ours, theirs in _TRANSFORMERS_MODULES.items()}
_TRANSFORMERS_TOP = {"norm": "layernorm", "head": "classifier"}

# vit-pytorch's short CvT: module inside a stage or a block -> official name. Beside
# today's names stand those of its older releases, whose blocks kept norm and function
# apart (`fn`).
_VIT_PYTORCH_STAGE = {"0": "patch_embed.proj", "1": "patch_embed.norm"}
_VIT_PYTORCH_ATTENTION = {
    "to_q.net.0": "attn.conv_proj_q.conv",
    "to_q.net.1": "attn.conv_proj_q.bn",
    "to_q.net.2": "attn.proj_q",
    "to_kv.net.0": "attn.conv_proj_kv.conv",
    "to_kv.net.1": "attn.conv_proj_kv.bn",
    "to_kv.net.2": "attn.proj_kv",
    "to_out.0": "attn.proj",
}
_VIT_PYTORCH_BLOCK = {
    "0.norm": "norm1",
    "1.net.0": "norm2",
    "1.net.1": "mlp.fc1",
    "1.net.4": "mlp.fc2",
    "1.norm": "norm2",
    "1.fn.net.0": "mlp.fc1",
    "1.fn.net.3": "mlp.fc2",
} | {
    f"0.{fn}{theirs}": ours
    for theirs, ours in _VIT_PYTORCH_ATTENTION.items()
    for fn in ("", "fn.")
}

# Keras's name of a variable -> PyTorch's.
KERAS_LEAVES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}

_OFFICIAL_KEY = re.compile(r"(stage\d+|norm|head)\.")
_TRANSFORMERS_KEY = re.compile(r"(?:cvt\.)?encoder\.stages\.(\d+)\.(.+)")
_TRANSFORMERS_BLOCK = re.compile(r"layers\.(\d+)\.(.+)")
_VIT_PYTORCH_KEY = re.compile(
    r"layers\.(?P<stage>\d+)\."
    r"(?:2\.layers\.(?P<block>\d+)\.)?(?P<module>.+)\.(?P<leaf>\w+)"
)
_KERAS_WEIGHTS_KEY = re.compile(
    r"layers/(?:(?P<top>layer_normalization|dense)"
    r"|conv_transformer_stage(?:_(?P<stage>\d+))?"
    r"(?:/blocks/blocks/conv_transformer_block(?:_)?(?P<block>\d*))?"
    r"/(?P<module>[a-z0-9_/]+))/vars/(?P<index>[0-3])"
)


def to_official(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Rename a checkpoint's arrays to the official keys and shapes.

    Args:
        state: What `readers.read_checkpoint` returns.

    Returns:
        The official state dict, and the layout that was recognised: `"official"`,
        `"transformers"`, `"transformers_tf"`, `"cvt_tensorflow"`, `"vit_pytorch"` or
        `"keras_weights"`, our own `.weights.h5`. BatchNorm's `num_batches_tracked`,
        the seeds of dropout and, of `.weights.h5`, the optimizer are left out; a key
        that the layout does not know keeps its name.

    Raises:
        CheckpointError: If no key looks like a CvT's.
    """
    layout = _recognise(state)
    if layout is None:
        raise CheckpointError(
            "Expected a CvT checkpoint (official, transformers', TFCvt's, "
            "cvt-tensorflow's or vit-pytorch's names). "
            f"Received names such as {list(state)[:3]}"
        )
    official = {}
    for name, array in state.items():
        if name.endswith("num_batches_tracked") or "seed_generator" in name:
            continue
        # A trained model's file holds its optimizer and metrics as well.
        if layout == "keras_weights" and not name.startswith("layers/"):
            continue
        if layout == "keras_weights":
            name, array = _from_keras_weights(name, array)
        if layout in ("transformers_tf", "cvt_tensorflow"):
            name, array = _from_keras_2(name, array)
        if layout.startswith("transformers"):
            name = _from_transformers(name)
        if layout == "vit_pytorch":
            name, array = _from_vit_pytorch(name, array)
        if name.endswith(".attn.proj_kv.weight") and array.ndim == 2:
            for letter, half in zip("kv", np.split(array, 2), strict=True):
                official[name.replace("proj_kv", f"proj_{letter}")] = half
            continue
        official[name] = array
    return official, layout


def _recognise(state):
    for layout, belongs in _LAYOUTS.items():
        if any(belongs(name) for name in state):
            return layout
    return None


def to_transformers(name: str) -> str:
    """Return transformers' name of an official key."""
    module, leaf = name.rsplit(".", 1)
    if module in _TRANSFORMERS_TOP:
        return f"{_TRANSFORMERS_TOP[module]}.{leaf}"
    stage, _, rest = name.partition(".")
    prefix = f"cvt.encoder.stages.{stage.removeprefix('stage')}"
    if rest == "cls_token":
        return f"{prefix}.cls_token"
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", rest)
    if block:
        prefix, rest = f"{prefix}.layers.{block[1]}", block[2]
    module, leaf = rest.rsplit(".", 1)
    return f"{prefix}.{_TRANSFORMERS_MODULES[module]}.{leaf}"


def _from_transformers(name):
    for ours, theirs in _TRANSFORMERS_TOP.items():
        if name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    match = _TRANSFORMERS_KEY.fullmatch(name)
    if not match:
        return name
    prefix, rest = f"stage{match[1]}", match[2]
    block = _TRANSFORMERS_BLOCK.fullmatch(rest)
    if block:
        prefix, rest = f"{prefix}.blocks.{block[1]}", block[2]
    module, _, leaf = rest.rpartition(".")
    module = _OFFICIAL_MODULES.get(module, module)
    return ".".join(part for part in (prefix, module, leaf) if part)


def _from_vit_pytorch(name, array):
    """Names and shapes of vit-pytorch's short CvT, where all is a convolution."""
    if name.startswith("to_logits.2."):
        return name.replace("to_logits.2", "head"), array
    match = _VIT_PYTORCH_KEY.fullmatch(name)
    if not match:
        return name, array
    module = f"stage{match['stage']}"
    if match["block"] is None:
        known = _VIT_PYTORCH_STAGE.get(match["module"])
    else:
        module += f".blocks.{match['block']}"
        known = _VIT_PYTORCH_BLOCK.get(match["module"])
    if known is None:
        return name, array
    leaf = {"g": "weight", "b": "bias"}.get(match["leaf"], match["leaf"])
    if match["leaf"] in ("g", "b"):  # (1, C, 1, 1)
        array = array.reshape(-1)
    elif known.startswith(("attn.proj", "mlp.")) and array.ndim == 4:
        array = array.reshape(array.shape[:2])  # (out, in, 1, 1)
    return f"{module}.{known}.{leaf}", array


def _from_keras_2(name, array):
    """Names and shapes of a Keras 2 `.h5`, both TensorFlow ports."""
    name = name.removesuffix(":0").replace("/", ".")
    name = re.sub(r"\.conv2d(_\d+)?\.", ".", name)
    # The model's own name comes first, and often twice.
    starts = re.finditer(
        r"(?:^|\.)(encoder\.stages\.|stage\d+\.|layernorm\.|classifier\.|norm\.|head\.)"
        r"(?!(?:.*\.)?\1)",
        name,
    )
    start = next(starts, None)
    if start:
        name = name[start.start(1) :]
    module, _, leaf = name.rpartition(".")
    if leaf in KERAS_LEAVES:
        name = f"{module}.{KERAS_LEAVES[leaf]}"
    return name, from_keras_shape(array)


def _from_keras_weights(name, array):
    """Names and shapes of `model.save_weights("....weights.h5")`.

    Keras names layers there by class and number, and variables by their order.
    """
    match = _KERAS_WEIGHTS_KEY.fullmatch(name)
    if not match:
        return name, array
    if match["top"]:
        module = {"layer_normalization": "norm", "dense": "head"}[match["top"]]
    else:
        module = f"stage{match['stage'] or 0}"
        if match["block"] is not None:
            module += f".blocks.{match['block'] or 0}"
        module += "." + match["module"].replace("/", ".")
    array = from_keras_shape(array, depthwise=".conv_proj_" in module)
    if module.endswith(".cls_token"):
        return module, array
    leaves = ("weight", "bias", "running_mean", "running_var")
    return f"{module}.{leaves[int(match['index'])]}", array


def from_keras_shape(array: np.ndarray, depthwise: bool = False) -> np.ndarray:
    """Turn a Keras kernel into PyTorch's axis order; leave vectors as they are.

    Args:
        array: A kernel or vector.
        depthwise: Whether a 4-axis kernel is a DepthwiseConv2D's (h, w, C, 1), not
            a (grouped) Conv2D's (h, w, in, out).
    """
    if array.ndim == 4:
        return array.transpose(2, 3, 0, 1) if depthwise else array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array


def to_keras_shape(array: np.ndarray, depthwise: bool = False) -> np.ndarray:
    """Undo `from_keras_shape`."""
    if array.ndim == 4:
        return array.transpose(2, 3, 0, 1) if depthwise else array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


# In the order in which they are tried; the HDF5 names carry a ":0".
_LAYOUTS = {
    "transformers_tf": lambda name: name.endswith(":0") and "encoder/stages" in name,
    "cvt_tensorflow": lambda name: name.endswith(":0") and name.startswith("stage"),
    "keras_weights": lambda name: name.startswith("layers/conv_transformer_stage"),
    "transformers": _TRANSFORMERS_KEY.match,
    "official": _OFFICIAL_KEY.match,
    "vit_pytorch": re.compile(r"layers\.\d+\.2\.layers\.\d+\.0\.").match,
}
