"""What the programs for dense prediction, `segment.py` and `detect.py`, share."""

import argparse
import functools
from pathlib import Path

import keras
import numpy as np
import options as common
from digit_scenes import DigitScenes
from PIL import Image

import keras_cvt
from keras_cvt._utils.files import write_whole
from keras_cvt._utils.optional import require, tf
from keras_cvt._utils.plots import new_figure, save_png
from keras_cvt.preprocessing.pil import read_rgb

# Stages of stride 4, 8 and 16, as in the published networks, for small pictures.
SMALL = keras_cvt.CvTConfig(
    stages=(
        keras_cvt.StageConfig(32, 1, 1, 7, 4, 2),
        keras_cvt.StageConfig(64, 2, 2, 3, 2, 1),
        keras_cvt.StageConfig(128, 2, 4, 3, 2, 1),
    )
)
# Most validation images on which a loaded or exported model is compared.
COMPARED = 16
# How well the outputs of a loaded or exported model have to agree.
SAME = 1e-3
SAME_CLASSES = 0.999
# The name of the only output of a network, as in LiteRT files of Keras.
OUTPUT = "output_0"
# Options that must be above 0, where a program has them.
_POSITIVE = (
    "epochs",
    "batch_size",
    "learning_rate",
    "scenes",
    "anchor_size",
    "head_layers",
)


def parser(description, output, data, epochs, batch_size, learning_rate):
    """Return a parser with the options of both programs."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--data", type=Path, metavar="FOLDER", help=data)
    options.add_argument(
        "--scenes",
        type=int,
        nargs=2,
        default=(2000, 200),
        metavar=("TRAINING", "VALIDATION"),
        help="without --data: number of pictures of digits (default: 2000 200)",
    )
    options.add_argument(
        "--model",
        default="small",
        help=f"small (for small pictures), {', '.join(common.BUILDERS)}, or a "
        "config.json (default: %(default)s)",
    )
    options.add_argument(
        "--weights",
        default="none",
        help="of the backbone: a published tag, a checkpoint, hf://org/repo, or none "
        "(default: %(default)s)",
    )
    options.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        default=(128, 128),
        metavar=("HEIGHT", "WIDTH"),
        help="size to which pictures are resized (default: 128 128)",
    )
    options.add_argument(
        "--epochs", type=int, default=epochs, help="default: %(default)s"
    )
    options.add_argument(
        "--batch-size", type=int, default=batch_size, help="default: %(default)s"
    )
    options.add_argument(
        "--learning-rate",
        type=float,
        default=learning_rate,
        help="peak, after a tenth of the steps (default: %(default)s)",
    )
    options.add_argument(
        "--output",
        type=Path,
        default=Path(output),
        help="folder of the model, its export and the picture (default: %(default)s)",
    )
    options.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of weights, order and digits (default: %(default)s)",
    )
    return options


def check(options, multiple):
    """Raise ValueError unless the numbers of the command line make sense.

    Args:
        options: The parsed options.
        multiple: What height and width must be a multiple of.
    """
    if any(size < multiple or size % multiple for size in options.image_size):
        raise ValueError(
            f"Expected --image-size of multiples of {multiple}, the stride of the "
            f"coarsest map. Received: {' '.join(map(str, options.image_size))}"
        )
    for name in _POSITIVE:
        value = getattr(options, name, 1)
        if np.min(value) <= 0:
            raise ValueError(
                f"Expected --{name.replace('_', '-')} above 0. Received: {value}"
            )
    # Before the training, and not after it.
    require("matplotlib", "dense", "The picture of results")
    if keras.backend.backend() == "tensorflow":
        require("ai_edge_litert", "litert", "The LiteRT file")


def backbone(options, levels):
    """Return the CvT without its head, for images of `--image-size`.

    Raises:
        ValueError: If it does not have the levels of `pyramid_outputs`.
    """
    small = functools.partial(keras_cvt.CvT, SMALL)
    build = small if options.model == "small" else common.builder(options.model)
    model = build(
        include_top=False,
        weights=None if options.weights == "none" else options.weights,
        input_shape=(*options.image_size, 3),
    )
    found = model.pyramid_outputs
    if not set(levels) <= set(found):
        raise ValueError(
            f"Expected a --model with the levels {', '.join(levels)}, of strides 2**2, "
            f"2**3 and so on. Received: {', '.join(found)}"
        )
    return model


def digits(options):
    """Return the training and the validation scenes of the command line."""
    return [
        DigitScenes(split, count, tuple(options.image_size), options.seed)
        for split, count in zip(("train", "validation"), options.scenes, strict=True)
    ]


def read_image(path, size):
    """Return an image file, resized to (height, width), as uint8 (H, W, 3)."""
    image = read_rgb(path).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)


def image_size(path):
    """Return the (height, width) of an image file without decoding it.

    Raises:
        ValueError: If the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            return image.size[::-1]
    except OSError as error:
        raise ValueError(f"Expected an image file. Received: {path}: {error}") from None


def batches(examples, batch_size, seed=None):
    """Return a `tf.data.Dataset` of batches.

    Args:
        examples: A sequence of pairs of an image and its target, an array or a dict of
            arrays. Their shapes are those of the first pair.
        batch_size: Number of pairs in a batch.
        seed: For training: in a new order each epoch, without a last smaller batch.
            Defaults to `None`: all, in their order.

    Raises:
        ValueError: If there is no whole batch to train on.
    """
    training = seed is not None
    if training and len(examples) < batch_size:
        raise ValueError(
            f"Expected at least one batch of --batch-size {batch_size}. "
            f"Received: {len(examples)} training images"
        )
    rng = np.random.default_rng(seed)

    def generate():
        order = np.arange(len(examples))
        if training:
            rng.shuffle(order)
        return (examples[index] for index in order)

    spec = keras.tree.map_structure(
        lambda array: tf.TensorSpec(array.shape, array.dtype), examples[0]
    )
    pairs = tf.data.Dataset.from_generator(generate, output_signature=spec)
    grouped = pairs.batch(batch_size, drop_remainder=training)
    count = len(examples) // batch_size if training else -(-len(examples) // batch_size)
    known = tf.data.experimental.assert_cardinality(count)
    return grouped.apply(known).prefetch(tf.data.AUTOTUNE)


def colours(count):
    """Return a colour for each of `count` classes, RGB from 0 to 1."""
    palette = require("matplotlib", "dense", "A picture").colormaps["tab20"]
    # The strong colours first, then the light ones.
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return [palette(order[index % 20])[:3] for index in range(count)]


def first_images(examples):
    """Return the images that programs compare models on, uint8 (N, H, W, 3)."""
    count = min(COMPARED, len(examples))
    return np.stack([examples[index][0] for index in range(count)])


def optimizer(options, training_images):
    """Return AdamW with a warm-up and a cosine schedule for the whole training."""
    steps = options.epochs * (training_images // options.batch_size)
    warmup = max(1, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup),
        warmup_target=options.learning_rate,
        warmup_steps=warmup,
    )
    # RetinaNet's sums of losses are large at first.
    return keras.optimizers.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0)


def set_norm_momentum(model, momentum=0.9):
    """Set the momentum of all batch norms to that of CvT's own.

    Keras's default, 0.99, needs many hundreds of steps until the averages fit.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum


def outputs_of(model, images):
    """Return a network's outputs for images by their names, computed one by one.

    Args:
        model: The model. If it has one output only, its name is `OUTPUT`.
        images: An array (N, H, W, 3).
    """

    def call(image):
        outputs = model(image[None], training=False)
        return outputs if isinstance(outputs, dict) else {OUTPUT: outputs}

    return _concatenated([call(image) for image in images])


def litert_outputs(path, images):
    """Return what `outputs_of` returns, computed by a LiteRT file for one image."""
    litert = require("ai_edge_litert.interpreter", "litert", "The LiteRT file")
    runner = litert.Interpreter(str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    images = images.astype("float32")
    return _concatenated([runner(**{name: image[None]}) for image in images])


def _concatenated(outputs):
    to_numpy = keras.ops.convert_to_numpy
    return {
        name: np.concatenate([to_numpy(output[name]) for output in outputs])
        for name in outputs[0]
    }


def save_and_compare(model, path, images, expected, logits=OUTPUT):
    """Write `.keras` and `.tflite` files, and compare them with the trained model.

    Only TensorFlow's backend writes the `.tflite` file.

    Args:
        model: The trained model.
        path: The files' path without a suffix.
        images: An array (N, H, W, 3).
        expected: The model's outputs for the images.
        logits: The name of the output with the classes in the last dimension.

    Raises:
        ValueError: If the outputs of a file are not those of the model.
    """
    # keras-hub's tasks do not restore how they were compiled. Leave out AdamW's state.
    model.compile("sgd")
    file = path.with_suffix(".keras")
    write_whole(file, model.save)
    loaded = keras.models.load_model(file, compile=False)
    _compare(f"Loaded {file}", expected, outputs_of(loaded, images), logits)
    if keras.backend.backend() != "tensorflow":
        print("LiteRT: no file is written. That needs the TensorFlow backend.")
        return
    file = path.with_suffix(".tflite")
    options = {
        "format": "litert",
        "input_signature": [keras.InputSpec("float32", (1, *images.shape[1:]))],
        "verbose": False,
    }
    write_whole(file, lambda temporary: model.export(temporary, **options))
    _compare(f"LiteRT {file}", expected, litert_outputs(file, images), logits)


def _compare(what, expected, found, logits):
    best = [outputs[logits].argmax(-1) for outputs in (expected, found)]
    equal = float(np.mean(best[0] == best[1]))
    largest = max(float(np.abs(expected[name] - found[name]).max()) for name in found)
    print(f"{what}: {equal:.3%} same classes, largest difference {largest:.1e}")
    if equal < SAME_CLASSES or not largest <= SAME:
        raise ValueError(
            f"{what} does not compute what the trained model does. Expected at least "
            f"{SAME_CLASSES:.1%} same classes and a difference of at most {SAME:.0e}. "
            f"Received: {equal:.3%} and {largest:.1e}"
        )


def draw(rows, titles, path, legend=()):
    """Write a picture of images in rows, with a title above each column.

    Args:
        rows: Rows of functions that each draw into one of matplotlib's axes.
        titles: A title for each column.
        path: The PNG file.
        legend: Pairs of a name and its colour, below the images. Defaults to none.
    """
    patches = require("matplotlib.patches", "dense", "A picture")
    figure = new_figure(
        figsize=(3 * len(titles), 3 * len(rows) + 0.5), layout="constrained"
    )
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, functions in enumerate(rows):
        for column, function in enumerate(functions):
            axes[row, column].axis("off")
            function(axes[row, column])
    for column, title in enumerate(titles):
        axes[0, column].set_title(title)
    handles = [patches.Patch(color=colour, label=name) for name, colour in legend]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=10)
    save_png(figure, path)
