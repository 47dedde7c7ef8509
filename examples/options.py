"""Options and set-up that the training programs of this folder share."""

import argparse
import dataclasses
import functools
import sys
import traceback
from pathlib import Path

import keras

import keras_cvt
from keras_cvt import data, training
from keras_cvt.data.folders import printable

BUILDERS = {
    "cvt13": keras_cvt.CvT13,
    "cvt21": keras_cvt.CvT21,
    "cvtw24": keras_cvt.CvTW24,
}
# Images per step by default: the paper's recipes have up to 2048, for many GPUs.
MOST_IMAGES = 128


def parser(description):
    """Return a parser with the options of all training programs."""
    options = argparse.ArgumentParser(description=description)
    add_data(options)
    options.add_argument(
        "--model",
        default="cvt13",
        help=f"{', '.join(BUILDERS)}, or a config.json (default: %(default)s)",
    )
    options.add_argument(
        "--output",
        type=Path,
        default=Path("run"),
        help="folder of the run (default: %(default)s)",
    )
    options.add_argument("--epochs", type=int, help="default: the recipe's length")
    options.add_argument(
        "--batch-size",
        type=int,
        help="images per step, on all devices together (default: the recipe's, at most "
        f"{MOST_IMAGES})",
    )
    options.add_argument("--image-size", type=int, help="pixels; default: the recipe's")
    options.add_argument(
        "--learning-rate",
        type=float,
        help="peak at this batch size; default: the recipe's, scaled",
    )
    options.add_argument(
        "--warmup-epochs",
        type=float,
        help="default: the recipe's, or a tenth of --epochs if that is not longer",
    )
    add_precision(options)
    options.add_argument(
        "--distribute",
        choices=training.DISTRIBUTIONS,
        default="none",
        help="how devices share each batch (default: %(default)s)",
    )
    options.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="train in several JAX processes of a Ray cluster: auto uses the one that "
        "runs, local starts one here",
    )
    options.add_argument(
        "--workers",
        type=int,
        default=2,
        help="number of these processes (default: %(default)s)",
    )
    options.add_argument(
        "--gpus-per-worker",
        type=int,
        default=0,
        metavar="N",
        help="GPUs of each of them (default: %(default)s)",
    )
    options.add_argument(
        "--cache", action="store_true", help="keep the encoded images in memory"
    )
    options.add_argument(
        "--clip-norm", type=float, help="largest global norm of the gradients"
    )
    options.add_argument(
        "--ema",
        type=float,
        help="validate and save averaged weights; the momentum of the average, such as "
        "0.9999",
    )
    options.add_argument(
        "--accumulate", type=int, help="batches per optimizer step (default: 1)"
    )
    options.add_argument(
        "--resume", action="store_true", help="continue the run in --output"
    )
    options.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of weights, order and augmentation (default: %(default)s)",
    )
    return options


def run(main):
    """Run a program. Errors of the program and of keras_cvt show no traceback."""
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = Path(keras_cvt.__file__).parent, Path(__file__).parent
        # Errors from deeper down need the traceback.
        if not any(Path(frame.filename).is_relative_to(folder) for folder in ours):
            raise
        message = str(error).replace("`training.Run(folder, resume=True)`", "--resume")
        sys.exit(f"{Path(sys.argv[0]).name}: {message}")


def add_data(options):
    options.add_argument(
        "--data",
        required=True,
        help="folder of class folders, or with train/ and validation/ (or test/) of "
        "them, directory of a TFDS data set, or name of a TensorFlow Datasets data set",
    )
    options.add_argument("--data-dir", help="folder of TensorFlow Datasets' data")
    add_validation_split(options)


def add_validation_split(options):
    options.add_argument(
        "--validation-split",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of the images that is held out, if the data has no validation "
        "images of its own (default: %(default)s)",
    )


def open_images(options, split, class_names=None, check_images=True):
    """Return the images of a split of --data."""
    return data.open_source(
        options.data,
        split,
        data_dir=options.data_dir,
        class_names=class_names,
        check_images=check_images,
        validation_split=options.validation_split,
    )


def add_precision(options):
    options.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of the computation; weights stay float32 (default: "
        "%(default)s)",
    )


def builder(name):
    """Return the builder of a published network or of a configuration file."""
    if name in BUILDERS:
        return BUILDERS[name]
    if not Path(name).is_file():
        raise ValueError(
            f"Expected --model {', '.join(BUILDERS)}, or the path of a config.json. "
            f"Received: {name}"
        )
    return lambda **kwargs: keras_cvt.CvT(
        keras_cvt.CvTConfig.from_json(Path(name)), **kwargs
    )


def from_scratch(options, recipe):
    """Return a function from a number of classes to a network with fresh weights."""
    build = builder(options.model)
    return lambda classes: build(
        weights=None,
        classes=classes,
        classifier_activation=None,
        drop_path_rate=recipe.drop_path_rate,
    )


def override(recipe, options):
    """Return the recipe with the command line's changes, and set the batch size."""
    if options.batch_size is None:
        options.batch_size = min(recipe.batch_size, MOST_IMAGES)
    changes = {}
    if options.epochs:
        changes |= {"epochs": options.epochs, "steps": None}
    if options.image_size:
        changes["image_size"] = options.image_size
    if options.learning_rate:
        changes |= {
            "learning_rate": options.learning_rate,
            "learning_rate_batch": options.batch_size,
        }
    if options.warmup_epochs is not None:
        changes["warmup_epochs"] = options.warmup_epochs
    elif options.epochs and recipe.warmup_epochs >= options.epochs:
        changes["warmup_epochs"] = options.epochs / 10
    return dataclasses.replace(recipe, **changes)


def add_augmentation(options):
    """Add the options that `augmented` reads."""
    options.add_argument(
        "--crop-padding",
        type=int,
        metavar="PIXELS",
        help="pad each side and crop, instead of random resized crops; usual for small "
        "images",
    )
    options.add_argument(
        "--no-flip",
        action="store_true",
        help="do not flip: digits, letters, signs",
    )
    options.add_argument(
        "--plain", action="store_true", help="only flip images; no drop path"
    )
    options.add_argument("--drop-path-rate", type=float, help="default: the recipe's")


def augmented(recipe, options):
    """Return the recipe with the command line's augmentation and drop path."""
    augmentation = recipe.augmentation
    if options.crop_padding is not None:
        augmentation = dataclasses.replace(
            augmentation, crop_scale=None, crop_padding=options.crop_padding
        )
    if options.no_flip:
        augmentation = dataclasses.replace(augmentation, flip=False)
    if options.plain:
        augmentation = dataclasses.replace(
            augmentation,
            crop_scale=None,
            rand_augment=0,
            random_erasing=0,
            mixup=0,
            cutmix=0,
            repeats=1,
        )
        recipe = dataclasses.replace(recipe, drop_path_rate=0.0, label_smoothing=0.0)
    if options.drop_path_rate is not None:
        recipe = dataclasses.replace(recipe, drop_path_rate=options.drop_path_rate)
    return dataclasses.replace(recipe, augmentation=augmentation)


def _train_with_ray(options, train):
    if options.distribute == "mirrored":
        raise ValueError("--ray uses JAX. Received: --distribute mirrored")

    def work(resume):
        changes = {"ray": None, "distribute": "data_parallel"}
        changes["resume"] = options.resume or resume
        return train(argparse.Namespace(**{**vars(options), **changes}))

    return training.run_with_ray(
        work,
        workers=options.workers,
        address=options.ray,
        gpus_per_worker=options.gpus_per_worker,
    )


def train(
    options,
    recipe,
    build,
    multipliers=None,
    *,
    class_names=None,
    settings=None,
    trainer=None,
    verbose="auto",
):
    """Open the images, build and train a model, and print the result.

    `class_names` are those of `data.open_source`, `settings` those of `training.Run`,
    `trainer` and `verbose` those of `training.fit`. Returns the best validation
    accuracy, or None in a process that does not write.
    """
    if options.ray:
        return _train_with_ray(
            options,
            functools.partial(
                train,
                recipe=recipe,
                build=build,
                multipliers=multipliers,
                class_names=class_names,
                settings=settings,
                trainer=trainer,
                verbose=2,  # Ray shows every change of a progress bar as a line
            ),
        )
    images = open_images(options, "train", class_names)
    held_out = open_images(options, "validation", images.class_names)
    print(
        f"{images.count} training and {held_out.count} validation images of "
        f"{len(images.class_names)} classes"
    )
    training.set_precision(options.precision)
    keras.utils.set_random_seed(options.seed)
    with training.distribute(options.distribute, options.batch_size):
        # A run that is there is refused or locked before the weights are loaded. The
        # folder of a new one is made after that: without weights there is no run.
        open_run = functools.partial(
            training.Run, options.output, settings, resume=options.resume
        )
        run = open_run() if options.output.exists() else None
        model = build(len(images.class_names))
        run = run or open_run()
        history = training.fit(
            model,
            recipe,
            images,
            held_out,
            run,
            batch_size=options.batch_size,
            seed=options.seed,
            cache=options.cache,
            multipliers=multipliers(model) if multipliers else None,
            use_ema=bool(options.ema),
            ema_momentum=options.ema or 0.0,
            global_clipnorm=options.clip_norm,
            gradient_accumulation_steps=options.accumulate,
            trainer=trainer,
            verbose=verbose,
        )
    if not run.writes:
        return None
    best = max(history, key=lambda row: row["val_accuracy"])
    try:
        curves = printable(run.plot())
    except ImportError as error:
        curves = f"not drawn. {error}"
    print(
        f"Best validation accuracy {best['val_accuracy']:.2%} after epoch "
        f"{best['epoch'] + 1:.0f}: {printable(run.best)}\nCurves: {curves}"
    )
    return best["val_accuracy"]
