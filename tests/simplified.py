"""State dicts of vit-pytorch's CvT, filled by the formula of the golden cases."""

import golden
import numpy as np

from keras_cvt.config import simplified


def keys(kwargs, classes, channels=3):
    """Return the shapes of `vit_pytorch.cvt.CvT(num_classes=classes, **kwargs)`."""
    shapes = {}
    for i, stage in enumerate(simplified(**kwargs).stages):
        dim, inner = stage.embed_dim, stage.num_heads * stage.head_dim
        hidden = int(dim * stage.mlp_ratio)
        shapes[f"layers.{i}.0.weight"] = (dim, channels, *2 * (stage.patch_size,))
        shapes[f"layers.{i}.0.bias"] = (dim,)
        shapes |= _norm(f"layers.{i}.1", dim)
        for j in range(stage.depth):
            block = f"layers.{i}.2.layers.{j}"
            shapes |= _norm(f"{block}.0.norm", dim)
            for name, out in (("to_q", inner), ("to_kv", 2 * inner)):
                net = f"{block}.0.{name}.net"
                shapes[f"{net}.0.weight"] = (dim, 1, *2 * (stage.kernel_size,))
                for leaf in ("weight", "bias", "running_mean", "running_var"):
                    shapes[f"{net}.1.{leaf}"] = (dim,)
                shapes[f"{net}.1.num_batches_tracked"] = ()
                shapes[f"{net}.2.weight"] = (out, dim, 1, 1)
            shapes |= _linear(f"{block}.0.to_out.0", inner, dim)
            shapes |= _norm(f"{block}.1.net.0", dim)
            shapes |= _linear(f"{block}.1.net.1", dim, hidden)
            shapes |= _linear(f"{block}.1.net.4", hidden, dim)
        channels = dim
    shapes["to_logits.2.weight"] = (classes, channels)
    shapes["to_logits.2.bias"] = (classes,)
    return shapes


def _norm(name, dim):
    return {f"{name}.g": (1, dim, 1, 1), f"{name}.b": (1, dim, 1, 1)}


def _linear(name, dim_in, dim_out):
    return {f"{name}.weight": (dim_out, dim_in, 1, 1), f"{name}.bias": (dim_out,)}


def state_dict(meta):
    shapes = keys(meta["kwargs"], meta["num_classes"])
    return {
        key: np.zeros(shape, "int64")
        if key.endswith("num_batches_tracked")
        else golden.weight(key, shape, meta["seed"])
        for key, shape in shapes.items()
    }


def older_names(state):
    """Return the state dict with the names of older releases, which contain `fn`."""
    older = {}
    for key, array in state.items():
        for new, old in (
            (".0.to_", ".0.fn.to_"),
            (".1.net.0.", ".1.norm."),
            (".1.net.1.", ".1.fn.net.0."),
            (".1.net.4.", ".1.fn.net.3."),
        ):
            if ".2.layers." in key and new in key and ".to_" not in key.split(new)[0]:
                head, _, tail = key.rpartition(new)
                key = head + old + tail
                break
        older[key] = array
    return older
