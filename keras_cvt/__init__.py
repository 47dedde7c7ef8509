"""CvT (Convolutional vision Transformer, arXiv 2103.15808) for Keras 3."""

import importlib
import warnings
from types import ModuleType

from keras_cvt import (
    checkpoints,
    data,
    deploy,
    explain,
    features,
    hub,
    layers,
    training,
)
from keras_cvt.builders import CvT, CvT13, CvT21, CvTSimplified, CvTW24
from keras_cvt.config import CvTConfig, StageConfig
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing import decode_predictions, preprocess_input
from keras_cvt.zoo import list_models, list_weights

__version__ = "0.2.0"

__all__ = [
    "CvT",
    "CvT13",
    "CvT21",
    "CvTSimplified",
    "CvTW24",
    "CvTConfig",
    "CvTModel",
    "StageConfig",
    "checkpoints",
    "data",
    "decode_predictions",
    "deploy",
    "explain",
    "features",
    "hub",
    "layers",
    "list_models",
    "list_weights",
    "preprocess_input",
    "training",
]

# Modules under their names in version 0.1.0, for one version.
_MOVED = {
    "cli_deploy": "cli.deploy",
    "downloads": "checkpoints.sources",
    "hub_files": "repository.client",
    "image_processors": "checkpoints.transformers_format",
    "weights": "checkpoints.sources",
} | {
    name: f"_utils.{name}"
    for name in ("errors", "files", "plots", "tables", "validation")
}


def __getattr__(name: str) -> ModuleType:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = f"{__name__}.{_MOVED[name]}"
    warnings.warn(f"{__name__}.{name} is now {new}.", DeprecationWarning, stacklevel=2)
    return importlib.import_module(new)
