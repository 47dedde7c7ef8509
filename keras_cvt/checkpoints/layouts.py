"""Maps the names and shapes of every known checkpoint layout to the official ones.

The official layout is the state dict of the official code. Its keys look like
`stage2.blocks.3.attn.proj_q.weight`. Its arrays have PyTorch's shapes: convolutions
(out, in, height, width), linear layers (out, in).
"""

import logging
import re
from collections.abc import Callable, Mapping

import numpy as np

from keras_cvt._utils.errors import CheckpointError
from keras_cvt.checkpoints import wrappers

logger = logging.getLogger(__name__)

# Official keys that have a meaning of their own.
FIRST_KERNEL = "stage0.patch_embed.proj.weight"
HEAD_KERNEL = "head.weight"
HEAD_BIAS = "head.bias"
_AFTER_STAGES = (HEAD_KERNEL, HEAD_BIAS, "norm.weight", "norm.bias")

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

# vit-pytorch's CvT: module inside a stage or a block -> official name. The names with
# `fn` are those of its older releases.
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

# What stands before the names of a network that is wrapped in something else, and in
# the `.h5` file of a whole model. Keras 2 also puts the model's name there.
_PREFIX = r"(?P<prefix>(?:.*?[./])??)"
_PREFIX_KERAS_2 = r"(?P<prefix>(?:model_weights/|optimizer_weights/)?)"
_TRANSFORMERS_KEY = re.compile(r"(?:cvt\.)?encoder\.stages\.(\d+)\.(.+)")
_TRANSFORMERS_BLOCK = re.compile(r"layers\.(\d+)\.(.+)")
_VIT_PYTORCH_KEY = re.compile(
    r"layers\.(?P<stage>\d+)\."
    r"(?:2\.layers\.(?P<block>\d+)\.)?(?P<module>.+)\.(?P<leaf>\w+)"
)
_KERAS_2_TOP = re.compile(r"encoder|stage\d+|layernorm|classifier|norm|head")
_KERAS_WEIGHTS_KEY = re.compile(
    r"layers/(?:(?P<top>layer_normalization|dense)"
    r"|conv_transformer_stage(?:_(?P<stage>\d+))?"
    r"(?:/blocks/blocks/conv_transformer_block(?:_)?(?P<block>\d*))?"
    r"/(?P<module>[a-z0-9_/]+))/vars/(?P<index>[0-3])"
)


def to_official(state: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Rename a checkpoint's arrays to the official keys and shapes.

    Args:
        state: Arrays by name, as `readers.read_checkpoint` returns them.

    Returns:
        The official state dict and the name of the layout: `"official"`,
        `"transformers"`, `"transformers_tf"`, `"cvt_tensorflow"`, `"vit_pytorch"`,
        `"keras_weights"` (Keras's `.weights.h5`) or `"keras_h5"` (Keras's older
        `.h5`). The state dict does not contain BatchNorm's `num_batches_tracked`, the
        seeds of dropout, or the optimizer of a Keras file. A prefix that stands before
        the names of the whole network is removed, and arrays outside of it are left
        out, except a norm and a head. Other unknown keys keep their names.

    Raises:
        CheckpointError: If no key belongs to a known layout, two keys mean the same
            array, or there are several networks.
    """
    arrays = [(wrappers.without_inner(name), array) for name, array in state.items()]
    layout, translate, prefixes = _recognise([name for name, _ in arrays])
    prefix = wrappers.choose(prefixes)
    others = tuple({*prefixes} - {"", prefix})
    official: dict[str, np.ndarray] = {}
    outside = []
    for name, array in arrays:
        if name.endswith("num_batches_tracked") or "seed_generator" in name:
            continue
        if not name.startswith(prefix) or name.startswith(others):
            outside.append((name, array))
            continue
        inner = name.removeprefix(prefix)
        # The file of a trained model contains its optimizer and metrics as well.
        if layout == "keras_weights" and not inner.startswith("layers/"):
            continue
        _put(official, *translate(inner, array))
    _add_from_outside(official, outside, translate, prefix)
    return official, layout


def _recognise(names):
    """Return the name of a layout, its translation, and the prefixes of its keys."""
    for layout, pattern, translate in _LAYOUTS:
        matches = (pattern.match(name) for name in names)
        prefixes = dict.fromkeys(match["prefix"] for match in matches if match)
        if prefixes:
            return layout, translate, prefixes
    raise CheckpointError(
        "Expected a CvT checkpoint with the names of the official code, "
        "transformers, TFCvt, cvt-tensorflow or vit-pytorch. "
        f"Received: names such as {str(names[:3])[:300]}"
    )


def _put(official, name, array):
    if name.endswith(".attn.proj_kv.weight") and array.ndim == 2:
        for letter, half in zip("kv", np.array_split(array, 2), strict=True):
            _put(official, name.replace("proj_kv", f"proj_{letter}"), half)
    elif name in official:
        raise CheckpointError(f"Expected one array for {name[:100]!a}. Received: two")
    else:
        official[name] = array


def _add_from_outside(official, outside, translate, prefix):
    """Add the norm and the head if only the network before them has the prefix."""
    left_out = []
    for name, array in outside:
        key, found = translate(name, array)
        if key in _AFTER_STAGES and key not in official:
            official[key] = found
        # A single number is a count or a loss.
        elif array.size > 1 and "optim" not in name:
            left_out.append(name)
    if left_out:
        logger.warning(
            "Not loaded, because their names do not start with %r: %d arrays such as "
            "%s.",
            prefix,
            len(left_out),
            left_out[:3],
        )


def part_of(key: str) -> str:
    """Return the part of the model that an official key belongs to.

    Args:
        key: An official key, such as `"stage0.patch_embed.proj.weight"`.

    Returns:
        `"stage0"`, `"stage1"` and so on, `"norm"` or `"head"`.
    """
    return key.split(".")[0]


def is_depthwise(key: str) -> bool:
    """Return whether an official key belongs to a depthwise convolution."""
    return ".conv_proj_" in key


def dims_and_depths(state: Mapping[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """Return the number of channels and of blocks of each stage.

    Args:
        state: An official state dict.
    """
    dims: list[int] = []
    depths = []
    while (key := f"stage{len(dims)}.patch_embed.norm.weight") in state:
        prefix = f"stage{len(dims)}.blocks."
        depths.append(len({k.split(".")[2] for k in state if k.startswith(prefix)}))
        dims.append(state[key].size)
    return dims, depths


def to_transformers(name: str) -> str:
    """Return the name in transformers' layout of an official key.

    Args:
        name: An official key.
    """
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


def _from_transformers(name, array):
    for ours, theirs in _TRANSFORMERS_TOP.items():
        if name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs), array
    match = _TRANSFORMERS_KEY.fullmatch(name)
    if not match:
        return name, array
    prefix, rest = f"stage{match[1]}", match[2]
    block = _TRANSFORMERS_BLOCK.fullmatch(rest)
    if block:
        prefix, rest = f"{prefix}.blocks.{block[1]}", block[2]
    module, _, leaf = rest.rpartition(".")
    module = _OFFICIAL_MODULES.get(module, module)
    return ".".join(part for part in (prefix, module, leaf) if part), array


def _from_official(name, array):
    return name, array


def _from_vit_pytorch(name, array):
    """Translate a name of vit-pytorch's CvT, whose linear layers are convolutions."""
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
    elif known.startswith(("attn.proj", "mlp.")) and array.shape[2:] == (1, 1):
        array = array.reshape(array.shape[:2])  # (out, in, 1, 1)
    return f"{module}.{known}.{leaf}", array


def _from_keras_2(name, array):
    """Translate a name in a Keras 2 `.h5` file of one of the TensorFlow ports.

    Names of layers and of the model come first, such as `stage0/stage0/blocks/...` or
    `cvt/tf_cvt_for_image_classification/cvt/encoder/stages.0/...`.
    """
    parts = name.removesuffix(":0").replace("/", ".").split(".")
    parts = [part for part in parts if not re.fullmatch(r"conv2d(_\d+)?", part)]
    top = next((part for part in parts if _KERAS_2_TOP.fullmatch(part)), None)
    while top in parts[1:]:
        parts = parts[1:]
    parts[-1] = KERAS_LEAVES.get(parts[-1], parts[-1])
    return ".".join(parts), from_keras_shape(array)


def _from_keras_h5(name, array):
    """Translate a name in Keras 3's `.h5` file of a whole model of this package."""
    depthwise = array.ndim == 4 and "/conv_proj_" in name
    array = array.swapaxes(2, 3) if depthwise else array  # as Keras 2's Conv2D
    name, array = _from_keras_2(name, array)
    return name.removesuffix(".token"), array


def _from_transformers_tf(name, array):
    return _from_transformers(*_from_keras_2(name, array))


def _from_keras_weights(name, array):
    """Translate a name in a file of `model.save_weights`.

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
    array = from_keras_shape(array, is_depthwise(module))
    if module.endswith(".cls_token"):
        return module, array
    leaves = ("weight", "bias", "running_mean", "running_var")
    return f"{module}.{leaves[int(match['index'])]}", array


def from_keras_shape(array: np.ndarray, depthwise: bool = False) -> np.ndarray:
    """Return an array of Keras in PyTorch's axis order.

    Args:
        array: A kernel, or a vector, which stays as it is.
        depthwise: Whether a kernel with 4 axes is that of a DepthwiseConv2D,
            (height, width, C, 1), and not that of a Conv2D, (height, width, in, out).
            Defaults to `False`.
    """
    if array.ndim == 4:
        return array.transpose(2, 3, 0, 1) if depthwise else array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array


def to_keras_shape(array: np.ndarray, depthwise: bool = False) -> np.ndarray:
    """Return an array of PyTorch in Keras's axis order; see `from_keras_shape`."""
    if array.ndim == 4:
        return array.transpose(2, 3, 0, 1) if depthwise else array.transpose(2, 3, 1, 0)
    return array.T if array.ndim == 2 else array


# (layout, pattern of a key that every network has, translation), in the order of the
# tests. What the pattern calls the prefix is not part of the layout's names.
_LAYOUTS: tuple[tuple[str, re.Pattern, Callable], ...] = tuple(
    (layout, re.compile(pattern), translate)
    for layout, pattern, translate in (
        (
            "transformers_tf",
            rf"{_PREFIX_KERAS_2}.*encoder/stages.*:0$",
            _from_transformers_tf,
        ),
        ("cvt_tensorflow", rf"{_PREFIX_KERAS_2}(?:.*/)?stage\d+/.*:0$", _from_keras_2),
        ("keras_h5", r"(?P<prefix>model_weights/)stage\d+/", _from_keras_h5),
        (
            "keras_weights",
            rf"{_PREFIX}layers/conv_transformer_stage",
            _from_keras_weights,
        ),
        (
            "transformers",
            rf"{_PREFIX}(?:cvt\.)?encoder\.stages\.\d+\.",
            _from_transformers,
        ),
        ("official", rf"{_PREFIX}stage\d+\.", _from_official),
        (
            "vit_pytorch",
            rf"{_PREFIX}layers\.\d+\.2\.layers\.\d+\.0\.",
            _from_vit_pytorch,
        ),
        ("official", r"(?P<prefix>)(?:norm|head)\.", _from_official),
    )
)
