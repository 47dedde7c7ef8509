"""Fine-tune a published CvT, or a checkpoint of your own, on your images.

    python examples/fine_tune.py --data FOLDER --model cvt13 --weights imagenet

The folder holds a folder of images for each class; a fifth of each class is held out to
validate. Or it holds train/ and validation/ (or test/) with such folders. The name of a
TensorFlow Datasets data set works too. The default recipe is for a few hundred to some
thousand photos; the paper's are for its data sets, such as `--recipe pets`.
"""

import dataclasses

import options as common

from keras_cvt import training


def main():
    parser = common.parser("Fine-tune a CvT on your images.")
    parser.add_argument(
        "--weights",
        default="imagenet",
        help="a published tag, a checkpoint, hf://org/repo, or none (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--recipe",
        choices=training.FINE_TUNING,
        default="photos",
        help="photos: 30 epochs with AdamW at 224 pixels, for your own; or the paper's "
        "for a data set, with SGD at 384 pixels: 20,000 steps for imagenet, 10,000 for "
        "cifar, 500 for pets and flowers (default: %(default)s)",
    )
    parser.add_argument(
        "--optimizer",
        choices=("sgd", "adamw"),
        help="default: the recipe's",
    )
    parser.add_argument("--weight-decay", type=float, help="default: the recipe's")
    parser.add_argument(
        "--no-crop", action="store_true", help="only resize and flip images"
    )
    parser.add_argument(
        "--freeze",
        type=int,
        default=0,
        metavar="STAGES",
        help="number of stages to freeze, counted from the image (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--layer-decay",
        type=float,
        default=1.0,
        help="factor of the learning rate from a block to the one before it (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--lora", type=int, metavar="RANK", help="train only matrices of this rank"
    )
    options = parser.parse_args()

    recipe = common.override(training.FINE_TUNING[options.recipe], options)
    changes = {"optimizer": options.optimizer, "weight_decay": options.weight_decay}
    changes = {name: value for name, value in changes.items() if value is not None}
    recipe = dataclasses.replace(recipe, **changes)
    if options.no_crop:
        augmentation = dataclasses.replace(recipe.augmentation, crop_scale=None)
        recipe = dataclasses.replace(recipe, augmentation=augmentation)

    def build(classes):
        model = common.builder(options.model)(
            weights=None if options.weights == "none" else options.weights,
            classes=classes,
            classifier_activation=None,
            drop_path_rate=recipe.drop_path_rate,
        )
        if options.lora:
            count = training.enable_lora(model, options.lora)
            print(f"LoRA trains {count:,} parameters")
        elif options.freeze:
            training.freeze_stages(model, options.freeze)
        return model

    common.train(
        options,
        recipe,
        build,
        lambda model: training.layer_learning_rates(model, options.layer_decay),
    )


if __name__ == "__main__":
    common.run(main)
