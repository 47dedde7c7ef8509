"""The paper's training recipes, tools for fine-tuning, and runs that resume."""

from keras_cvt.training.distribution import KINDS as DISTRIBUTIONS
from keras_cvt.training.distribution import distribute
from keras_cvt.training.fine_tuning import (
    enable_lora,
    freeze_stages,
    layer_learning_rates,
)
from keras_cvt.training.fitting import fit, set_precision
from keras_cvt.training.optimizers import SGD, AdamW
from keras_cvt.training.ray_train import run_with_ray
from keras_cvt.training.recipes import (
    FINE_TUNING,
    FROM_SCRATCH,
    PRETRAINING,
    Recipe,
)
from keras_cvt.training.runs import Run

__all__ = [
    "DISTRIBUTIONS",
    "FINE_TUNING",
    "FROM_SCRATCH",
    "PRETRAINING",
    "SGD",
    "AdamW",
    "Recipe",
    "Run",
    "distribute",
    "enable_lora",
    "fit",
    "freeze_stages",
    "layer_learning_rates",
    "run_with_ray",
    "set_precision",
]
