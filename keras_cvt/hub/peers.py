"""The same network in transformers, to compare with where it is installed."""

import tempfile
import warnings
from importlib.util import find_spec

import numpy as np

from keras_cvt.checkpoints import save_checkpoint
from keras_cvt.hub.folder import runs_in_transformers
from keras_cvt.models import CvTModel


def transformers_logits(model: CvTModel, images: np.ndarray) -> np.ndarray | None:
    """Return what transformers' PyTorch CvT computes with a model's weights.

    Its activation is replaced by the model's own.

    Args:
        model: A classifier.
        images: Normalised, (B, H, W, C).

    Returns:
        Logits (B, classes); None where transformers or PyTorch is not installed, or
        has no such network.
    """
    installed = all(find_spec(name) for name in ("torch", "transformers"))
    if not installed or not runs_in_transformers(model):
        return None
    import torch
    from transformers import CvtForImageClassification
    from transformers.activations import QuickGELUActivation
    from transformers.models.cvt.modeling_cvt import CvtIntermediate

    with tempfile.TemporaryDirectory(prefix="keras_cvt-") as folder:
        with warnings.catch_warnings():
            # It is replaced below.
            warnings.filterwarnings("ignore", "transformers runs CvT with exact GELU")
            save_checkpoint(model, folder + "/peer", layout="transformers")
        peer = CvtForImageClassification.from_pretrained(folder + "/peer").eval()
    if model.cvt_config.activation == "quick_gelu":
        for module in peer.modules():
            if isinstance(module, CvtIntermediate):
                module.activation = QuickGELUActivation()
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        return peer(pixels).logits.cpu().numpy()
