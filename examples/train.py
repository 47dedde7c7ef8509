"""Train a CvT from scratch, as the paper does, on any images.

    python examples/train.py --data imagenet2012 --model cvt13 --batch-size 2048

Small images and networks work too; `--model` takes a config.json:

    python examples/train.py --data FOLDER --model tiny.json --image-size 32 \
        --batch-size 128 --epochs 30 --learning-rate 1e-3 --crop-padding 4
"""

import options as common

from keras_cvt import training


def main():
    parser = common.parser("Train a CvT from scratch by the paper's recipe.")
    common.add_augmentation(parser)
    options = parser.parse_args()

    recipe = training.PRETRAINING.get(options.model, training.PRETRAINING["cvt13"])
    recipe = common.augmented(common.override(recipe, options), options)

    common.train(options, recipe, common.from_scratch(options, recipe))


if __name__ == "__main__":
    common.run(main)
