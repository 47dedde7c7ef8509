"""Train a CvT from scratch on any images.

By the paper's recipe for the network:

    python examples/train.py --data imagenet2012 --model cvt13 --batch-size 2048

A small network on images of 32 x 32 pixels, such as CIFAR-10's:

    python examples/train.py --data cifar10 --recipe cifar \
        --model examples/small_images.json --cache

With letters, digits or signs add `--no-flip`.
"""

import options as common

from keras_cvt import training

RECIPES = training.PRETRAINING | training.FROM_SCRATCH


def main():
    parser = common.parser("Train a CvT from scratch.")
    parser.add_argument(
        "--recipe",
        choices=RECIPES,
        help="the paper's for a network, or cifar for images of 32 x 32 pixels "
        "(default: that of --model, or else that of cvt13)",
    )
    common.add_augmentation(parser)
    options = parser.parse_args()

    name = options.recipe or options.model
    recipe = RECIPES.get(name, training.PRETRAINING["cvt13"])
    recipe = common.augmented(common.override(recipe, options), options)

    common.train(options, recipe, common.from_scratch(options, recipe))


if __name__ == "__main__":
    common.run(main)
