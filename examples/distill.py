"""Train a small CvT with a larger one as its teacher (knowledge distillation).

    python examples/distill.py --data FOLDER --teacher tuned/best.keras \
        --student small.json --image-size 96 --output student

The student learns from the labels and from the teacher's probabilities. The teacher
sees the same augmented images, resized to its own size. `best.keras` and `last.keras`
in the folder of the run hold the student. With `--alone` the same student is also
trained without the teacher, on the same images for as many steps, in the folder `alone`
below.

Reference: "Distilling the Knowledge in a Neural Network", arXiv 1503.02531.
"""

import argparse
import copy
import sys

import keras
import numpy as np
import options as common

from keras_cvt import data, training
from keras_cvt.cli import loading
from keras_cvt.data.folders import first_few
from keras_cvt.features import describe_origin
from keras_cvt.preprocessing.predictions import imagenet_classes


def positive(text, maximum=sys.float_info.max):
    number = float(text)
    if not 0 < number <= maximum:
        raise argparse.ArgumentTypeError(
            f"expected a positive number of at most {maximum:g}, received {text}"
        )
    return number


def share(text):
    return positive(text, 1.0)


def parse_arguments():
    parser = common.parser("Train a CvT with a larger one as its teacher.")
    common.add_augmentation(parser)
    parser.add_argument(
        "--teacher",
        required=True,
        help="a .keras file, cvt13, cvt21, cvtw24 or a config.json",
    )
    parser.add_argument(
        "--teacher-weights",
        help="a published tag, a checkpoint or hf://org/repo (default: imagenet, or "
        "the weights of the .keras file)",
    )
    parser.add_argument("--student", dest="model", help="the same as --model")
    parser.add_argument(
        "--alpha",
        type=share,
        default=0.7,
        help="share of the teacher in the loss; the labels have the rest (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=positive,
        default=3.0,
        help="divides the logits of both in the teacher's part of the loss; higher "
        "values show more of the less likely classes (default: %(default)s)",
    )
    parser.add_argument(
        "--alone",
        action="store_true",
        help="train the same student without the teacher as well, to compare",
    )
    return parser.parse_args()


def load_teacher(options):
    """Return the teacher, which must take RGB images of 0-255 and name one class.

    `--precision` is that of the student: the teacher computes in its own.
    """
    names = {"model": options.teacher, "weights": options.teacher_weights}
    try:
        teacher = loading.classifier(argparse.Namespace(**names, class_names=None))
    except ValueError as error:
        raise ValueError(f"--teacher: {error}") from error
    if teacher.description.answers != "class":
        raise ValueError(
            "Expected a teacher that ends in a softmax over several classes, or in its "
            f"logits. Received: {options.teacher}, whose outputs are decisions"
        )
    return teacher


def match_classes(teacher, found):
    """Return the class names of the images in the order of the teacher's outputs.

    Args:
        teacher: The teacher.
        found: Class names of the images.
    """
    if teacher.classes != len(found):
        raise ValueError(
            "Expected images of the teacher's classes. "
            f"Received: a teacher of {teacher.classes} classes and images of "
            f"{len(found)}: {first_few(found)}"
        )
    names = teacher.class_names
    wnids, words = zip(*imagenet_classes(), strict=True)
    if found == wnids and names in (None, words):
        return found
    if names is None:
        print("The teacher has no class names: its outputs are taken in this order.")
        return found
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            "Expected images of the teacher's classes. The images have none of "
            f"{first_few(missing)}. Received: {first_few(found)}"
        )
    return names


def evaluate(teacher, images, options):
    """Return the teacher's accuracy, with its own size and crop."""
    batches = data.evaluation_batches(images, teacher, options.batch_size)
    labels = np.concatenate([y for _, y in batches.as_numpy_iterator()])
    scores = teacher.predict(batches, verbose=0)
    return np.mean(scores.argmax(-1) == labels.argmax(-1))


class Resize(keras.layers.Layer):
    """Resizes images (B, H, W, C) of 0-255 as Pillow does, bicubic and antialiased.

    With `keras.layers.Resizing`, TensorFlow could not compile the model with XLA.
    """

    def __init__(self, size):
        super().__init__(dtype="float32")
        self.size = size

    def call(self, images):
        old = images.shape[1:3]
        resized = keras.ops.image.scale_and_translate(
            images,
            (keras.ops.shape(images)[0], *self.size, images.shape[-1]),
            scale=keras.ops.array([n / o for n, o in zip(self.size, old, strict=True)]),
            translation=keras.ops.zeros(2),
            spatial_dims=(1, 2),
            method="cubic",
        )
        # The interpolation overshoots at edges.
        return keras.ops.clip(resized, 0, 255)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.size, input_shape[-1])


def logits_model(teacher, size):
    """Return a model from images of the student's size to the teacher's logits."""
    x = images = keras.Input((size, size, teacher.channels))
    if teacher.eval_transform.image_size != (size, size):
        x = Resize(teacher.eval_transform.image_size)(x)
    return keras.Model(images, teacher.with_activation(None)(x), name="teacher")


def distiller(student, teacher, options):
    """Return the compiled model whose `fit` trains a compiled student."""
    model = keras.distillation.Distiller(
        teacher,
        student,
        # As an object: of the default, a function, Keras 3.15 computes the divergence
        # of the logits themselves, without a softmax.
        keras.distillation.LogitsDistillation(
            options.temperature, keras.losses.KLDivergence()
        ),
        student_loss_weight=1 - options.alpha,
        # Images keep their precision, as those of the student do.
        dtype="float32",
    )
    model.compile(
        student.optimizer,
        student.loss,
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    return model


def main():
    options = parse_arguments()
    if options.distribute != "none" or options.ray:
        raise ValueError(
            "A teacher and its student train on one device. "
            f"Received: --distribute {options.distribute}, --ray {options.ray}"
        )
    recipe = training.PRETRAINING.get(options.model, training.PRETRAINING["cvt13"])
    recipe = common.augmented(common.override(recipe, options), options)
    build = common.from_scratch(options, recipe)
    teacher = load_teacher(options)
    found = common.open_images(options, "train", check_images=False)
    class_names = match_classes(teacher, found.class_names)
    held_out = common.open_images(options, "validation", class_names)
    accuracies = {"teacher": evaluate(teacher, held_out, options)}
    teacher_logits = logits_model(teacher, recipe.image_size)

    def train(options, **arguments):
        return common.train(
            options,
            recipe,
            build,
            class_names=class_names,
            **arguments,
        )

    accuracies["student"] = train(
        options,
        settings={
            "teacher": describe_origin(teacher),
            "alpha": options.alpha,
            "temperature": options.temperature,
        },
        trainer=lambda student: distiller(student, teacher_logits, options),
    )
    if options.alone:
        alone = copy.copy(options)
        alone.output = options.output / "alone"
        accuracies["student alone"] = train(alone)
    text = ", ".join(f"{name} {value:.2%}" for name, value in accuracies.items())
    print(f"Best validation accuracy: {text}")


if __name__ == "__main__":
    common.run(main)
