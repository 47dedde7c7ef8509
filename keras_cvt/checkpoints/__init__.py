"""Checkpoints of CvT: read any layout, load strictly, write back."""

import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from keras_cvt.checkpoints import assign, layouts, readers
from keras_cvt.checkpoints.assign import LoadReport
from keras_cvt.checkpoints.errors import CheckpointError
from keras_cvt.models import CvTModel

__all__ = ["CheckpointError", "LoadReport", "load_checkpoint", "save_checkpoint"]

_TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def load_checkpoint(
    model: CvTModel,
    source: str | os.PathLike | Mapping[str, np.ndarray],
    strict: bool = True,
    only: Iterable[str] | None = None,
) -> LoadReport:
    """Load a checkpoint of any known layout into a model.

    Args:
        model: A model of `keras_cvt`.
        source: The path of a file (official `.pth`; transformers'
            `model.safetensors`, `pytorch_model.bin` or `tf_model.h5`;
            cvt-tensorflow's `.h5`), or a dict of numpy arrays in one of these
            layouts. Format and layout are recognised.
        strict: Whether anything missing, unexpected or of a wrong shape is an
            error. Otherwise it is left out, and logged.
        only: Parts to take, such as `("stage0", "stage1")`; the rest of the model
            keeps its weights.

    Returns:
        What was loaded and what was left out.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read, or does not fit and `strict`.
            The model is unchanged then.

    Reference:
        `init_weights` and `pretrained_layers` of the official
        `lib/models/cls_cvt.py`.
    """
    _check_model(model)
    if not isinstance(source, Mapping):
        source = readers.read_checkpoint(source)
    state, layout = layouts.to_official(source)
    if layout.startswith("transformers") and model.cvt_config.activation != "gelu":
        assign.logger.warning(
            "This checkpoint is in transformers' layout, which transformers runs with "
            "exact GELU; %s uses %s. The published CvT weights are right with "
            "quick_gelu; models trained with transformers need gelu.",
            model.name,
            model.cvt_config.activation,
        )
    return assign.assign(model, state, strict=strict, only=only)


def save_checkpoint(
    model: CvTModel, path: str | os.PathLike, layout: str = "official"
) -> None:
    """Write a model as a PyTorch state dict.

    The file appears whole or not at all.

    Args:
        model: A model of `keras_cvt`.
        path: Ends in `.safetensors`, or in `.pth`, `.pt` or `.bin`, which need
            PyTorch.
        layout: `"official"`, or `"transformers"`, whose `CvtForImageClassification`
            computes the same for models with `activation="gelu"` only.

    Raises:
        ValueError: If the suffix or the layout is unknown.
        ImportError: If the suffix needs PyTorch and it is not installed.
    """
    _check_model(model)
    if layout not in ("official", "transformers"):
        raise ValueError(
            "`layout` must be 'official' or 'transformers'. "
            f"Received: layout={layout!r}"
        )
    path = Path(path)
    if path.suffix not in (".safetensors", *_TORCH_SUFFIXES):
        raise ValueError(
            "`path` must end in .safetensors, .pth, .pt or .bin. "
            f"Received: path={str(path)!r}"
        )
    state = assign.extract(model)
    if layout == "transformers":
        state = {layouts.to_transformers(key): a for key, a in state.items()}
        if model.cvt_config.activation != "gelu":
            warnings.warn(
                "transformers runs CvT with exact GELU; this model uses "
                f"{model.cvt_config.activation} and will give other outputs there.",
                stacklevel=2,
            )
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    try:
        _write(state, temporary, path.suffix)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _write(state, path, suffix):
    if suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(state, path, metadata={"format": "pt"})
        return
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Writing {suffix} files needs PyTorch: pip install 'keras_cvt[torch]'. "
            "A .safetensors file needs nothing more."
        ) from error
    # A file handle: torch would take a path's suffix into the archive.
    with open(path, "wb") as file:
        torch.save({key: torch.from_numpy(a) for key, a in state.items()}, file)


def _check_model(model):
    if not isinstance(model, CvTModel):
        raise ValueError(
            f"Expected a model of keras_cvt. Received: model={model!r} of type "
            f"{type(model).__name__}"
        )
