"""From a model to a PyTorch state dict."""

import os
import warnings
from pathlib import Path

import numpy as np

from keras_cvt._utils import files
from keras_cvt._utils.optional import require
from keras_cvt.checkpoints import layouts, state_dict, transformers_format
from keras_cvt.description import ModelDescription, other_layers
from keras_cvt.models import CvTModel

_TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def save_checkpoint(
    model: CvTModel, path: str | os.PathLike, layout: str = "official"
) -> None:
    """Write a model as a PyTorch state dict.

    Every file appears completely or not at all.

    Args:
        model: A model of `keras_cvt`.
        path: Ends in `.safetensors`, or in `.pth`, `.pt` or `.bin`, which need
            PyTorch. A path without a suffix is a folder for transformers'
            `from_pretrained`: `model.safetensors`, `config.json` and, for a model
            that normalises its images itself, `preprocessor_config.json`.
        layout: `"official"`, or `"transformers"`, whose `CvtForImageClassification`
            computes the same for models with `activation="gelu"` only. Defaults to
            `"official"`.

    Raises:
        ValueError: If the suffix or the layout is unknown, transformers cannot run
            the network, or the model has layers that a checkpoint cannot express.
        ImportError: If the suffix needs PyTorch and it is not installed.

    Example:
        >>> keras_cvt.checkpoints.save_checkpoint(model, "model.safetensors")
        >>> keras_cvt.checkpoints.save_checkpoint(model, "folder", "transformers")
    """
    check_model(model)
    if layout not in ("official", "transformers"):
        raise ValueError(
            "`layout` must be 'official' or 'transformers'. "
            f"Received: layout={layout!r}"
        )
    path = Path(path)
    as_folder = layout == "transformers" and not path.suffix
    if not as_folder and path.suffix not in (".safetensors", *_TORCH_SUFFIXES):
        raise ValueError(
            "`path` must end in .safetensors, .pth, .pt or .bin; the transformers "
            f"layout also takes a folder. Received: path={str(path)!r}"
        )
    check_expressible(model, described=as_folder)
    if layout == "transformers":
        _check_transformers(model.cvt_config)
    if as_folder:
        write_described(model, path)
    else:
        write_state(model, path, layout)


def write_described(
    model: CvTModel, folder: Path, description: ModelDescription | None = None
) -> None:
    """Write `model.safetensors` and the JSON files that describe it into a folder.

    The weights are in transformers' layout if transformers has such a network. The
    description defaults to the model's own. The caller has checked that the model is
    expressible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = description or model.description
    unfit = transformers_format.obstacles(model.cvt_config)
    layout = "official" if unfit else "transformers"
    write_state(model, folder / "model.safetensors", layout)
    described = transformers_format.description_files(description)
    for name, values in described.items():
        files.write_json(folder / name, values)
    if transformers_format.FILE not in described:
        # Otherwise an earlier model's file would describe this one.
        (folder / transformers_format.FILE).unlink(missing_ok=True)


def write_state(model: CvTModel, path: Path, layout: str) -> None:
    """Write the weights alone, as `save_checkpoint` does."""
    state = state_dict.extract(model)
    # PyTorch's BatchNorm counts its batches and misses the count if it is not there.
    state |= {
        key.replace("running_var", "num_batches_tracked"): np.zeros((), "int64")
        for key in state
        if key.endswith("running_var")
    }
    if layout == "transformers":
        state = {layouts.to_transformers(key): a for key, a in state.items()}
    if path.suffix == ".safetensors":
        metadata = {"format": "pt"}
        files.write_whole(path, lambda p: files.save_safetensors(p, state, metadata))
        return
    purpose = f"Without PyTorch only .safetensors can be written: {path.suffix}"
    torch = require("torch", "torch", purpose)

    def save(temporary):
        # A file handle: torch would take a path's suffix into the archive.
        with open(temporary, "wb") as file:
            try:
                torch.save({key: torch.from_numpy(a) for key, a in state.items()}, file)
            except RuntimeError as error:
                # The archive that a full disk has cut fails once more.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    files.write_whole(path, save)


def check_model(model: CvTModel) -> None:
    """Raise ValueError unless `model` is one of keras_cvt."""
    if not isinstance(model, CvTModel):
        raise ValueError(
            f"Expected a model of keras_cvt. Received: model={model!r} of type "
            f"{type(model).__name__}"
        )


def check_expressible(model: CvTModel, described: bool = True) -> None:
    """Raise ValueError unless a checkpoint can express a model of keras_cvt.

    Args:
        model: The model.
        described: Whether the network is built again from what is written. Otherwise
            only the weights must be complete. Defaults to `True`.
    """
    state_dict.official_variables(model)
    others = [
        layer.name
        for layer in other_layers(model)
        if described or getattr(layer, "weights", None)
    ]
    if others:
        raise ValueError(
            "Expected a network of keras_cvt and its head alone. Layers around it "
            "cannot be part of a checkpoint: save the model as `.keras`, or save "
            f"the network without them. Received: {model.name!r} with {others}"
        )


def _check_transformers(config):
    unfit = transformers_format.obstacles(config)
    if unfit:
        raise ValueError(unfit)
    if config.activation != "gelu":
        warnings.warn(
            "transformers runs CvT with exact GELU; this model uses "
            f"{config.activation} and will give other outputs there.",
            stacklevel=3,
        )
