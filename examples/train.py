"""Train a CvT from scratch, as the paper does, on any images.

    python examples/train.py --data imagenet2012 --model cvt13 --batch-size 2048

Small images and networks work too; `--model` takes a config.json:

    python examples/train.py --data FOLDER --model tiny.json --image-size 32 \
        --batch-size 128 --epochs 30 --learning-rate 1e-3 --crop-padding 4
"""

import dataclasses

import options as common

from keras_cvt import training


def main():
    parser = common.parser("Train a CvT from scratch by the paper's recipe.")
    parser.add_argument(
        "--crop-padding",
        type=int,
        metavar="PIXELS",
        help="pad each side and crop, instead of random resized crops; usual for small "
        "images",
    )
    parser.add_argument(
        "--no-flip",
        action="store_true",
        help="do not flip: digits, letters, signs",
    )
    parser.add_argument(
        "--plain", action="store_true", help="only flip images; no drop path"
    )
    parser.add_argument("--drop-path-rate", type=float, help="default: the recipe's")
    options = parser.parse_args()

    recipe = training.PRETRAINING.get(options.model, training.PRETRAINING["cvt13"])
    recipe = common.override(recipe, options)
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
    recipe = dataclasses.replace(recipe, augmentation=augmentation)

    build = common.builder(options.model)
    common.train(
        options,
        recipe,
        lambda classes: build(
            weights=None,
            classes=classes,
            classifier_activation=None,
            drop_path_rate=recipe.drop_path_rate,
        ),
    )


if __name__ == "__main__":
    common.run(main)
