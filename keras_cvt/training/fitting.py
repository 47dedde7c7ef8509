"""Training from images to a saved model, with one call."""

import hashlib
import logging
import math
from collections.abc import Callable
from typing import Any

import keras

from keras_cvt._utils import validation as checks
from keras_cvt.data import (
    ImageSource,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from keras_cvt.data.folders import printable
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.models import CvTModel
from keras_cvt.training import distribution
from keras_cvt.training.recipes import Recipe
from keras_cvt.training.runs import Run

logger = logging.getLogger(__name__)

_FINE_TUNED = "fine-tuned from"


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
    trainer: Callable[[CvTModel], keras.Model] | None = None,
    **compile_options: Any,
) -> list[dict[str, float]]:
    """Train a CvT by a recipe, write the run's folder, and resume after a kill.

    It puts `Recipe.compile`, `keras_cvt.data` and `model.fit` together. The model gets
    the images' class names, and the recipe's image size as its `eval_transform`. If the
    recipe does not crop, neither does the `eval_transform`.

    The run's `run.json` records all that the result depends on. A run is resumed only
    with the same recipe, batch size, seed, images, network, precision, trainable layers
    and optimizer options.

    With `use_ema=True`, validation, the best model and the last model use the averaged
    weights. The statistics of BatchNorm are those of the training.

    Args:
        model: A CvT with a head for the classes of the training images.
        recipe: The training recipe.
        training: Images to train on.
        validation: Images to validate with after each epoch.
        run: The folder. If it holds an unfinished run, training continues there. If
            it holds a finished run, its last weights are loaded.
        batch_size: Global batch size: images per step on all devices together. `None`
            takes the recipe's. Defaults to `None`.
        seed: Seed of the order and augmentation of the images. To repeat a result,
            also call `keras.utils.set_random_seed` before you build the model.
            Defaults to `0`.
        cache: Whether to keep the encoded images in memory. Defaults to `False`.
        verbose: Argument of `keras.Model.fit`. If several processes train, only the
            first one prints. Defaults to `"auto"`.
        trainer: Function of the compiled model. It returns the model whose `fit` trains
            that one, compiled with `model.optimizer`, such as a
            `keras.distillation.Distiller` around it.
            The run saves the model itself. What the trainer depends on belongs in the
            `settings` of the run. Defaults to `None`: the model trains itself.
        **compile_options: Arguments of `Recipe.compile`, such as `multipliers`,
            `use_ema` or `global_clipnorm`.

    Returns:
        Loss and metrics, one dict per epoch.

    Raises:
        ValueError: If the model, the images and the recipe do not fit together, or
            the run was started with other settings.
        FloatingPointError: If the loss becomes NaN or infinite.
    """
    batch_size = recipe.batch_size if batch_size is None else batch_size
    size = (recipe.image_size, recipe.image_size)
    _check_types(training, validation, run)
    _check(model, recipe, training, validation)
    model.class_names = training.class_names
    if not (model.source_weights or _FINE_TUNED).startswith(_FINE_TUNED):
        model.source_weights = f"{_FINE_TUNED} {model.source_weights}"
    if run.writes:
        run.record(
            {
                "recipe": recipe.to_dict(),
                "batch_size": batch_size,
                "seed": seed,
                "training_images": _identity(training),
                "validation_images": _identity(validation),
                "optimizer_options": {
                    name: value
                    for name, value in compile_options.items()
                    if value and name != "jit_compile"
                },
                "batch_norm_replicas": distribution.batch_norm_replicas(),
                **_facts(model),
            },
            notes={
                "image_folders": [
                    each.folder or each.name for each in (training, validation)
                ],
                "backend": keras.backend.backend(),
                "processes": distribution.process_index_and_count()[1],
                "keras": keras.__version__,
            },
        )
    if run.finished:
        logger.warning(
            "%s is a finished run. It is not trained further; its last weights are "
            "loaded.",
            run.folder,
        )
        # It may have been killed while it cleaned up.
        run.finish()
        last = keras.models.load_model(run.last, compile=False)
        model.set_weights(last.get_weights())
        return run.history()
    _check_drop_path(model, recipe, run)
    steps = steps_per_epoch(training, batch_size)
    # Validate as the users of the saved model will evaluate.
    uncropped = recipe.augmentation.crop_scale is None
    ratio = None if uncropped else model.eval_transform.crop_ratio
    model.eval_transform = EvalTransform(size, ratio)
    recipe.compile(model, batch_size, steps, **compile_options)
    done = run.restore(model)
    shard = distribution.process_index_and_count()
    try:
        callbacks, trained = run.callbacks(), model
        if trainer is not None:
            callbacks, trained = [_CallbacksOf(model, callbacks)], trainer(model)
            if trained.optimizer is not model.optimizer:
                raise ValueError(
                    "Expected `trainer` to return a model that is compiled with "
                    "`model.optimizer`, which has the recipe's schedule and which the "
                    f"run saves. Received: {trained.optimizer!r}"
                )
        trained.fit(
            training_batches(
                training,
                size,
                batch_size,
                augmentation=recipe.augmentation,
                seed=seed,
                initial_epoch=done,
                cache=cache,
                shard=shard,
            ),
            validation_data=evaluation_batches(
                validation,
                model,
                batch_size,
                devices=distribution.device_count(),
                cache=cache,
                shard=shard,
            ),
            # The batches are shuffled already, which Keras cannot know.
            shuffle=False,
            steps_per_epoch=steps,
            initial_epoch=done,
            epochs=recipe.total_epochs(steps),
            callbacks=callbacks,
            verbose=verbose if run.writes else 0,
        )
        run.finish()
    finally:
        run.release()
    return run.history()


class _CallbacksOf(keras.callbacks.CallbackList):
    """Callbacks of a model that another model trains.

    Args:
        model: The model that the callbacks watch and save.
        callbacks: The callbacks.
    """

    def __init__(self, model, callbacks):
        super().__init__(callbacks)
        super().set_model(model)

    def set_model(self, model):
        """Keep the model; `fit` passes the one that trains it."""


def _check_types(training, validation, run):
    for name, source in (("training", training), ("validation", validation)):
        if not isinstance(source, ImageSource):
            raise ValueError(
                f"`{name}` must be what `keras_cvt.data.open_source` returns. For a "
                f"tf.data.Dataset, call `model.fit`. Received: {name}={source!r}"
            )
    if not isinstance(run, Run):
        raise ValueError(
            "`run` must be a `keras_cvt.training.Run`, such as `training.Run('run')`. "
            f"Received: run={run!r}"
        )


def _check(model, recipe, training, validation):
    if training.class_names != validation.class_names:
        raise ValueError(
            "Training and validation images must have the same classes. Open the "
            "validation images with `class_names=training.class_names`."
        )
    if model.classes != len(training.class_names):
        raise ValueError(
            "The model must have one output for each class of the images. Build it "
            f"with `classes={len(training.class_names)}`. "
            f"Received: a model with {model.classes} classes"
        )
    description = model.description
    description.check_photos()
    if description.answers != "class":
        raise ValueError(
            "Images in class folders have one class each: expected a model that ends "
            "in a softmax over several classes, or in its logits. Received: "
            f"activation={description.activation!r}, outputs={description.outputs!r}"
        )
    stride = math.prod(stage.config.patch_stride for stage in model.stages)
    if recipe.image_size % stride:
        lower = recipe.image_size // stride * stride
        raise ValueError(
            "The size of the training images must be a multiple of the network's "
            f"stride, {stride}. The nearest sizes are {lower} and {lower + stride}. "
            f"Received: image_size={recipe.image_size}"
        )
    if any(side not in (None, recipe.image_size) for side in model.input_shape[1:3]):
        raise ValueError(
            f"The model takes images of {model.input_shape[1:3]}. Build it without "
            "`input_shape`, or change the recipe with `dataclasses.replace(recipe, "
            f"image_size=...)`. Received: a recipe with image_size={recipe.image_size}"
        )


def _check_drop_path(model, recipe, run):
    """Raise ValueError unless the network has the recipe's drop path.

    The rate is part of the network's configuration, which is saved with the model, and
    layers without drop path have no seed for it. So the network is not changed here.
    """
    rate = model.cvt_config.stages[-1].drop_path_rate
    if recipe.drop_path_rate in (None, rate):
        return
    message = (
        f"The recipe has drop_path_rate={recipe.drop_path_rate}, the model was built "
        f"with drop_path_rate={rate}."
    )
    # Version 0.1.0 began it so, and it must be able to continue.
    if run.resumed:
        logger.warning("%s The run continues with the model's rate.", message)
        return
    raise ValueError(
        f"{message} Build the model with "
        f"`drop_path_rate={recipe.drop_path_rate}`, or keep the model's rate with "
        "`dataclasses.replace(recipe, drop_path_rate=None)`."
    )


def _facts(model):
    """Return what the result depends on and only the model knows."""
    description = model.description
    return {
        "class_names": list(description.class_names),
        "network": {
            "config": description.config.to_dict(),
            "channels": description.channels,
            "include_preprocessing": description.include_preprocessing,
            "activation": description.activation,
        },
        "dtype_policy": model.stages[-1].dtype_policy.name,
        # Not by the layers' names: Keras numbers them through a program.
        "trainable_parameters": [
            sum(math.prod(v.shape) for v in layer.trainable_variables)
            for layer in model.layers
            if layer.weights
        ],
    }


def _identity(source):
    """Return what tells images from others, wherever their folder is."""
    if source.files is None:
        return {"count": source.count, "fingerprint": source.fingerprint()}
    names, folder = hashlib.sha256(), source.folder or source.name
    for paths, _ in source.files.batch(4096).as_numpy_iterator():
        for path in paths:
            names.update(printable(path).removeprefix(folder).encode() + b"\0")
    return {"count": source.count, "fingerprint": names.hexdigest()}


def set_precision(name: str) -> None:
    """Set the precision in which the models that are built next compute.

    Args:
        name: `"float32"`, `"bfloat16"` or `"float16"`. With the latter two, weights,
            norms and the head stay in float32.

    Raises:
        ValueError: If `name` is not one of these.
    """
    policies = {
        "float32": "float32",
        "bfloat16": "mixed_bfloat16",
        "float16": "mixed_float16",
    }
    checks.check_choice(tuple(policies), name=name)
    keras.config.set_dtype_policy(policies[name])
