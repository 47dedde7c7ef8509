"""Images for training and evaluation, from folders or TensorFlow Datasets.

The batches are `tf.data` datasets, which `fit` takes on every Keras backend. `fit` also
takes any other batches of images in 0-255 and labels. TensorFlow is imported when a
function is called, not before.
"""

from keras_cvt.data.augmentation import Augmentation
from keras_cvt.data.pipelines import (
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from keras_cvt.data.sources import ImageSource, open_source

__all__ = [
    "Augmentation",
    "ImageSource",
    "evaluation_batches",
    "open_source",
    "steps_per_epoch",
    "training_batches",
]
