"""Classify images of any number, with a Keras model or an exported file."""

from keras_cvt.inference.classifier import Classifier, classifier_of
from keras_cvt.inference.predicting import (
    Summary,
    image_paths,
    predict_files,
    predict_rows,
)
from keras_cvt.inference.ray_data import predict_dataset, predict_with_ray

__all__ = [
    "Classifier",
    "Summary",
    "classifier_of",
    "image_paths",
    "predict_dataset",
    "predict_files",
    "predict_rows",
    "predict_with_ray",
]
