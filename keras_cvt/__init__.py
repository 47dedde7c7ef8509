"""CvT (Convolutional vision Transformer, arXiv 2103.15808) for Keras 3."""

from keras_cvt import checkpoints, data, deploy, hub, layers, training
from keras_cvt.builders import CvT, CvT13, CvT21, CvTSimplified, CvTW24
from keras_cvt.config import CvTConfig, StageConfig
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing import decode_predictions, preprocess_input
from keras_cvt.zoo import list_models, list_weights

__version__ = "0.1.0"

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
    "hub",
    "layers",
    "list_models",
    "list_weights",
    "preprocess_input",
    "training",
]
