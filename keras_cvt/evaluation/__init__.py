"""How accurate a classifier is: a Keras model or an exported file, on labelled images.

`evaluate` reads ImageNet, ImageNet-V2, the reassessed labels (ReaL), any data set of
TensorFlow Datasets and any folder of classes, in constant memory, and compares with the
published accuracy. `keras-cvt evaluate` is the same as a command.
"""

from keras_cvt.evaluation.benchmarks import BENCHMARKS, TOLERANCE, BenchmarkRecord
from keras_cvt.evaluation.classes import match_classes
from keras_cvt.evaluation.evaluating import evaluate
from keras_cvt.evaluation.metrics import Metrics
from keras_cvt.evaluation.recording import record
from keras_cvt.evaluation.results import ClassResult, Confusion, EvaluationResult

__all__ = [
    "BENCHMARKS",
    "TOLERANCE",
    "BenchmarkRecord",
    "ClassResult",
    "Confusion",
    "EvaluationResult",
    "Metrics",
    "evaluate",
    "match_classes",
    "record",
]
