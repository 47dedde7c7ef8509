"""Run the same network in transformers, to compare with."""

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from keras_cvt.checkpoints import saving, transformers_format
from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_cvt.models import CvTModel


def transformers_logits(model: CvTModel, images: np.ndarray) -> np.ndarray | None:
    """Return the logits that transformers computes with the weights of a model.

    The activation of its network is replaced by that of the model.

    Args:
        model: A classifier.
        images: (B, H, W, C), as the model takes them.

    Returns:
        Logits (B, classes). None if transformers or PyTorch is not installed, or if
        transformers does not have such a network.
    """
    config = model.cvt_config
    installed = all(find_spec(name) for name in ("torch", "transformers"))
    if not installed or transformers_format.obstacles(config):
        return None
    import torch
    from transformers import CvtForImageClassification
    from transformers.activations import QuickGELUActivation
    from transformers.models.cvt.modeling_cvt import CvtIntermediate

    with tempfile.TemporaryDirectory(prefix="keras_cvt-") as folder:
        saving.write_described(model, Path(folder))
        network = CvtForImageClassification.from_pretrained(folder).eval()
    if config.activation == "quick_gelu":
        for module in network.modules():
            if isinstance(module, CvtIntermediate):
                module.activation = QuickGELUActivation()
    if model.description.value_range is not None:
        images = (images / 255 - IMAGENET_MEAN) / IMAGENET_STD
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2), "float32")
    with torch.inference_mode():
        return network(torch.from_numpy(pixels)).logits.cpu().numpy()
