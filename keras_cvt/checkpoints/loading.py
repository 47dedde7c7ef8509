"""From a checkpoint of any layout into a model."""

import os
from collections.abc import Iterable, Mapping

import numpy as np

from keras_cvt.checkpoints import layouts, readers, sources, state_dict
from keras_cvt.checkpoints.saving import check_model
from keras_cvt.checkpoints.state_dict import LoadReport
from keras_cvt.models import CvTModel


def load_checkpoint(
    model: CvTModel,
    source: str | os.PathLike | Mapping[str, np.ndarray],
    strict: bool = True,
    only: Iterable[str] | None = None,
) -> LoadReport:
    """Load a checkpoint of any known layout into a model.

    Args:
        model: A model of `keras_cvt`.
        source: What `weights=` takes: the path of a file (official `.pth`;
            transformers' `model.safetensors`, `pytorch_model.bin` or `tf_model.h5`;
            cvt-tensorflow's `.h5`; vit-pytorch's state dict; our own `.weights.h5`),
            a folder with one of transformers' files, `"hf://org/repo"` or
            `"hf://org/repo@revision"`, or a published name such as
            `"cvt13/imagenet"`. Also a dict of numpy arrays or PyTorch tensors in one
            of these layouts. Format and layout are recognised. A prefix before all
            names, such as `module.` or `model.`, is removed.
        strict: Whether anything missing, unexpected or of a wrong shape, NaN,
            infinity and negative variances are an error. Otherwise they are logged;
            what does not fit is left out. Defaults to `True`.
        only: Parts to load, such as `("stage0", "stage1")`; the rest of the model
            keeps its weights. Defaults to `None`, the whole model.

    Returns:
        What was loaded and what was left out.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read, or does not fit and `strict`.
            The model is unchanged then.

    Example:
        >>> keras_cvt.checkpoints.load_checkpoint(model, "CvT-13-224x224-IN-1k.pth")

    Reference:
        `init_weights` and `pretrained_layers` of the official
        `lib/models/cls_cvt.py`.
    """
    check_model(model)
    location = None
    if isinstance(source, Mapping):
        state, layout = layouts.to_official(readers.from_dict(source))
    else:
        # The model needs no description, but a later call without a network may.
        location = sources.locate(source, descriptions="cached if possible")
        state, layout = sources.read(location)
    activation = model.cvt_config.activation
    published = location is not None and location.record is not None
    if layout.startswith("transformers") and activation != "gelu" and not published:
        state_dict.logger.warning(
            "This checkpoint is in transformers' layout, which transformers runs with "
            "exact GELU; %s uses %s. The published CvT weights are right with "
            "quick_gelu; models trained with transformers need gelu.",
            model.name,
            activation,
        )
    report = state_dict.assign(model, state, strict=strict, only=only)
    if only is None and not (report.missing or report.mismatched):
        model.source_weights = None if location is None else location.source
    return report
