"""One call from images to a trained network, with a folder to show for it."""

import logging
import math
from typing import Any

import keras

from keras_cvt.data import (
    ImageSource,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from keras_cvt.models import CvTModel
from keras_cvt.preprocessing import EvalTransform
from keras_cvt.training import distribution
from keras_cvt.training.recipes import Recipe
from keras_cvt.training.runs import Run

logger = logging.getLogger(__name__)


def fit(
    model: CvTModel,
    recipe: Recipe,
    training: ImageSource,
    validation: ImageSource,
    run: Run,
    *,
    batch_size: int | None = None,
    seed: int = 0,
    cache: bool = False,
    verbose: int | str = "auto",
    **compile_options: Any,
) -> list[dict[str, float]]:
    """Train a CvT by a recipe, write the run's folder, and go on where it stopped.

    It is `Recipe.compile`, `keras_cvt.data` and `model.fit`, put together. The model's
    `eval_transform` becomes the recipe's size; where the recipe does not crop, it
    does not crop either.

    Args:
        model: A CvT with a head for the training images' classes.
        recipe: How to train.
        training: Images to train on.
        validation: Images to measure with, each epoch.
        run: The folder. If it holds an unfinished run, training goes on there; of a
            finished one the last weights are loaded.
        batch_size: The global batch size; None is the recipe's.
        seed: Of the order and augmentation of the images. With
            `keras.utils.set_random_seed` before the model is built, one seed gives
            one result.
        cache: Whether encoded images stay in memory.
        verbose: Of `keras.Model.fit`. Of several processes only the first is heard.
        **compile_options: Of `Recipe.compile`.

    Returns:
        Loss and metrics, a dict an epoch.

    Raises:
        ValueError: If the model, the images and the recipe do not fit together.
        FloatingPointError: If the loss is no number any more.
    """
    batch_size = recipe.batch_size if batch_size is None else batch_size
    size = (recipe.image_size, recipe.image_size)
    _check(model, recipe, training, validation)
    model.labels = training.class_names
    if run.finished:
        logger.warning("%s is a finished run: nothing is trained again.", run.folder)
        last = keras.models.load_model(run.last, compile=False)
        model.set_weights(last.get_weights())
        return run.history()
    steps = steps_per_epoch(training, batch_size)
    # What is validated here is what the saved model's users will do.
    uncropped = recipe.augmentation.crop_scale is None
    ratio = None if uncropped else model.eval_transform.crop_ratio
    model.eval_transform = EvalTransform(size, ratio)
    recipe.compile(model, batch_size, steps, **compile_options)
    done = run.restore(model)
    options = {"cache": cache, "shard": distribution.processes()}
    model.fit(
        training_batches(
            training,
            size,
            batch_size,
            augmentation=recipe.augmentation,
            seed=seed,
            initial_epoch=done,
            **options,
        ),
        validation_data=evaluation_batches(
            validation,
            model,
            batch_size,
            devices=distribution.devices(),
            **options,
        ),
        # They are shuffled already, which Keras cannot know.
        shuffle=False,
        steps_per_epoch=steps,
        initial_epoch=done,
        epochs=recipe.total_epochs(steps),
        callbacks=run.callbacks(),
        verbose=verbose if run.writes else 0,
    )
    run.finish()
    return run.history()


def _check(model, recipe, training, validation):
    if training.class_names != validation.class_names:
        raise ValueError(
            "Training and validation images must have the same classes; open the "
            "latter with `class_names=training.class_names`."
        )
    classes = model.output_shape[-1]
    if classes != len(training.class_names):
        raise ValueError(
            f"The model has {classes} classes, the images "
            f"{len(training.class_names)}; build it with `classes=`."
        )
    if not model.get_layer("preprocessing").normalize:
        raise ValueError(
            "`keras_cvt.data` gives images of 0-255; build the model with "
            "`include_preprocessing=True`."
        )
    stride = math.prod(stage.config.patch_stride for stage in model.stages)
    if recipe.image_size % stride:
        lower = recipe.image_size // stride * stride
        raise ValueError(
            f"The network's stride of {stride} must divide the size of its training "
            f"images. Received: image_size={recipe.image_size}; "
            f"{lower} and {lower + stride} are the nearest."
        )
    if any(side not in (None, recipe.image_size) for side in model.input_shape[1:3]):
        raise ValueError(
            f"The model takes images of {model.input_shape[1:3]}. Received: "
            f"image_size={recipe.image_size}"
        )


def set_precision(name: str) -> None:
    """Choose what a model that is built next computes in.

    Args:
        name: `"float32"`, or `"bfloat16"` or `"float16"`, which keep weights, norms
            and the head in float32.

    Raises:
        ValueError: If it is none of these.
    """
    policies = {
        "float32": "float32",
        "bfloat16": "mixed_bfloat16",
        "float16": "mixed_float16",
    }
    if name not in policies:
        raise ValueError(
            f"`name` must be one of {tuple(policies)}. Received: name={name!r}"
        )
    keras.config.set_dtype_policy(policies[name])
