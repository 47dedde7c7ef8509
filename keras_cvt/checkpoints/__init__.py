"""Checkpoints of CvT: read any layout, load strictly, write back."""

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from keras_cvt import files, hub_files, image_processors, repository
from keras_cvt.checkpoints import assign, layouts, readers
from keras_cvt.checkpoints.assign import LoadReport
from keras_cvt.errors import CheckpointError
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
            cvt-tensorflow's `.h5`; vit-pytorch's state dict; our own `.weights.h5`),
            a folder with one of transformers' files, `"hf://org/repo"` or
            `"hf://org/repo@revision"`, or a dict of numpy arrays in one of these
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
    if isinstance(source, str) and source.startswith(hub_files.SCHEME):
        name = source.removeprefix(hub_files.SCHEME)
        source = repository.download_checkpoint(*hub_files.split_revision(name))
    if not isinstance(source, Mapping):
        path = Path(source)
        path = hub_files.find_checkpoint(path) if path.is_dir() else path
        source = readers.read_checkpoint(path)
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

    Every file appears whole or not at all.

    Args:
        model: A model of `keras_cvt`.
        path: Ends in `.safetensors`, or in `.pth`, `.pt` or `.bin`, which need
            PyTorch. A path without a suffix is a folder for transformers'
            `from_pretrained`: `model.safetensors`, `config.json` and, for a model
            that normalises its images itself, `preprocessor_config.json`.
        layout: `"official"`, or `"transformers"`, whose `CvtForImageClassification`
            computes the same for models with `activation="gelu"` only.

    Raises:
        ValueError: If the suffix or the layout is unknown, or transformers cannot
            run the network.
        ImportError: If the suffix needs PyTorch and it is not installed.
    """
    _check_model(model)
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
    state = assign.extract(model)
    # PyTorch's BatchNorm counts its batches and misses the count if it is not there.
    state |= {
        key.replace("running_var", "num_batches_tracked"): np.zeros((), "int64")
        for key in state
        if key.endswith("running_var")
    }
    if layout == "transformers":
        _check_transformers(model.cvt_config)
        state = {layouts.to_transformers(key): a for key, a in state.items()}
    if not as_folder:
        files.write_whole(path, lambda name: _write_state(state, name, path.suffix))
        return
    path.mkdir(parents=True, exist_ok=True)
    config = _transformers_config(model, state)
    processor = None
    # Of other models nobody knows how their images are normalised.
    if model.get_layer("preprocessing").normalize:
        processor = image_processors.to_transformers(model.eval_transform)
    if processor is None:
        config[repository.TRANSFORM_KEY] = model.eval_transform.to_dict()
    files.write_whole(
        path / "model.safetensors",
        lambda name: _write_state(state, name, ".safetensors"),
    )
    files.write_json(path / "config.json", config)
    if processor is None:
        # Or an earlier model's would speak for this one.
        (path / image_processors.FILE).unlink(missing_ok=True)
    else:
        files.write_json(path / image_processors.FILE, processor)


def _check_transformers(config):
    config.to_transformers(classes=0)  # says so if it has no name for an option
    projections = sorted({stage.projection for stage in config.stages} - {"dw_bn"})
    if projections:
        raise ValueError(
            "transformers' CvT runs with projection 'dw_bn' only; save this model "
            f"with layout='official'. Received: {projections}"
        )
    if config.activation != "gelu":
        warnings.warn(
            "transformers runs CvT with exact GELU; this model uses "
            f"{config.activation} and will give other outputs there.",
            stacklevel=3,
        )


def _transformers_config(model, state):
    head = state.get("classifier.weight")
    first = state[
        "cvt.encoder.stages.0.embedding.convolution_embeddings.projection.weight"
    ]
    return model.cvt_config.to_transformers(
        classes=0 if head is None else head.shape[0],
        channels=first.shape[1],
        image_size=model.eval_transform.image_size[0],
        labels=model.labels,
    )


def _write_state(state, name, suffix):
    if suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(state, name, metadata={"format": "pt"})
        return
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Writing {suffix} files needs PyTorch: pip install 'keras_cvt[torch]'. "
            "A .safetensors file needs nothing more."
        ) from error
    # A file handle: torch would take a path's suffix into the archive.
    with open(name, "wb") as file:
        torch.save({key: torch.from_numpy(a) for key, a in state.items()}, file)


def _check_model(model):
    if not isinstance(model, CvTModel):
        raise ValueError(
            f"Expected a model of keras_cvt. Received: model={model!r} of type "
            f"{type(model).__name__}"
        )
