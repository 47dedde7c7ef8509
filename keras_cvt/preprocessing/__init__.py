"""From image files, arrays or tensors to pixels, and from scores to class names.

The pixels are those of the official evaluation (`lib/dataset/transformas/build.py`
of microsoft/CvT, which uses torchvision's transforms on PIL images). The model itself
normalises them, see `keras_cvt.layers.ImagePreprocessing`.
"""

from keras_cvt.eval_transform import EvalTransform
from keras_cvt.preprocessing.images import preprocess_input
from keras_cvt.preprocessing.predictions import decode_predictions

__all__ = ["EvalTransform", "decode_predictions", "preprocess_input"]
