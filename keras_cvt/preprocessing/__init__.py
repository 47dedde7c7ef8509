"""From image files, arrays or tensors to what a CvT takes, and back to names.

The pixels are those of the official evaluation (`lib/dataset/transformas/build.py`
of microsoft/CvT: torchvision's transforms over PIL). Normalisation is not here: it
is part of the model, see `keras_cvt.layers.ImagePreprocessing`.
"""

from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.images import preprocess_input
from keras_cvt.preprocessing.predictions import decode_predictions

__all__ = ["EvalTransform", "decode_predictions", "preprocess_input"]
