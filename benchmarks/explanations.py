"""Do the heat maps of `keras_cvt.explain` show what the network looks at?

A small CvT learns digits at random places between distractors. Where the digit is, is
known. Measured on pictures that it has not seen and classifies right:

- the share of a map's mass in the digit's box (chance: the box's share of the picture);
- deletion: the mean probability of the class while the hottest 16 x 16 squares become
  grey, from none to half of the picture (lower is better);
- the rank correlation of the map with that of the same network with random weights,
  from the head down (the sanity check of Adebayo et al., arXiv 1810.03292).

    python benchmarks/explanations.py --output benchmarks/RESULTS.md
"""

import argparse
import datetime
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from PIL import Image
from reports import command_line, keep, say, table, versions

import keras_cvt
from keras_cvt import StageConfig, explain
from keras_cvt.explain import geometry

CANVAS = 96
SQUARE = 16
CONFIG = keras_cvt.CvTConfig(
    stages=(
        StageConfig(32, 1, 1, 7, 4, 2),
        StageConfig(64, 1, 2, 3, 2, 1),
        StageConfig(128, 4, 2, 3, 1, 1, cls_token=True),
    )
)


# ---------------------------------------------------------------- pictures


def load_digits():
    """Return training and test digits of 8 x 8 pixels, each with their classes."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.uint8(images.reshape(-1, 8, 8) / 16 * 255)
    test = np.arange(len(labels)) % 4 == 0
    return (images[~test], labels[~test]), (images[test], labels[test])


def picture(rng, digit):
    """Place a digit on a canvas with noise and pieces of strokes.

    Returns:
        float32 (96, 96, 3) and the digit's box (top, left, bottom, right).
    """
    canvas = rng.uniform(0, 60, (CANVAS, CANVAS))
    for _ in range(6):  # the digit's own pixels in another order tell no class
        piece = rng.permutation(digit.reshape(16, 4)).reshape(8, 8)[:4, :4]
        _paste(rng, canvas, piece, 12)
    size = int(rng.integers(22, 31))
    box = _paste(rng, canvas, digit, size)
    canvas = np.clip(canvas, 0, 255)
    return np.repeat(canvas[..., None], 3, axis=-1).astype("float32"), box


def _paste(rng, canvas, pixels, size):
    enlarged = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    top, left = rng.integers(0, CANVAS - size, 2)
    part = canvas[top : top + size, left : left + size]
    np.maximum(part, np.asarray(enlarged), out=part)
    return top, left, top + size, left + size


def pictures(rng, digits):
    """Return pictures (B, 96, 96, 3) of digits and their boxes (B, 4)."""
    made = [picture(rng, digit) for digit in digits]
    return np.stack([image for image, _ in made]), np.array([box for _, box in made])


# ---------------------------------------------------------------- network


def trained(options, digits, labels):
    """Return a network that has learned the digits."""
    if options.model and options.model.exists():
        return keras.models.load_model(options.model)
    keras.utils.set_random_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    model = keras_cvt.CvT(
        CONFIG, weights=None, classes=10, input_shape=(CANVAS, CANVAS, 3)
    )
    steps = options.epochs * len(digits) // options.batch_size
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=1e-3, warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(schedule),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    for epoch in range(options.epochs):
        images, _ = pictures(rng, digits)
        history = model.fit(images, labels, options.batch_size, verbose=0).history
        say(f"epoch {epoch + 1}: accuracy {history['accuracy'][0]:.3f}")
    if options.model:
        model.save(options.model)
    return model


def randomised(model):
    """Yield names and networks whose weights are random from the head down."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    fresh = keras_cvt.CvT(
        CONFIG, weights=None, classes=10, input_shape=(CANVAS, CANVAS, 3)
    )
    last, new_last = copy.stages[-1], fresh.stages[-1]
    parts = [("head", copy.get_layer("head"), fresh.get_layer("head"))]
    for i in reversed(range(CONFIG.stages[-1].depth)):
        block, new = last.blocks.blocks[i], new_last.blocks.blocks[i]
        parts.append((f"block {i} of the last stage", block, new))
    for i in reversed(range(len(CONFIG.stages))):
        parts.append((f"stage {i}", copy.stages[i], fresh.stages[i]))
    for name, layer, new in parts:
        layer.set_weights(new.get_weights())
        yield name, copy


# ---------------------------------------------------------------- maps


def last_attention(model, images, classes):
    """Return the class token's attention in the last block, without the others."""
    maps = explain.attention_maps(model, images, block=-1)
    attention = model.stages[-1].blocks.blocks[-1].attn
    keys = attention.conv_projections()[-1]
    height, width = maps.query_grid
    on_keys = maps.of_class_token.mean(axis=1)
    rows, columns = (geometry.key_shares(keys, size) for size in (height, width))
    read = rows.T @ on_keys @ columns
    return geometry.upsample(read, model.cvt_config.stages, *images.shape[1:3])


def equal_tiles(model, images, classes):
    """Return Grad-CAM with each token on an equal tile, not at its centre."""
    cam = explain.grad_cam(model, images, classes, upsample=False)
    enlarged = [
        Image.fromarray(x).resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)
        for x in cam
    ]
    return np.stack([np.asarray(x) for x in enlarged])


METHODS = {
    "class_token_map": lambda m, x, c: explain.class_token_map(m, x),
    "grad_cam": lambda m, x, c: explain.grad_cam(m, x, c),
    "grad_cam, pool_gradients": lambda m, x, c: explain.grad_cam(
        m, x, c, pool_gradients=True
    ),
    "grad_cam, stage 1": lambda m, x, c: explain.grad_cam(m, x, c, stage=1),
    "attention of the last block alone": last_attention,
    "grad_cam on equal tiles": equal_tiles,
    "random map": lambda m, x, c: np.random.default_rng(0).random(x.shape[:3]),
}


def mass_inside(maps, boxes):
    """Return the share of each map's mass in its box."""
    inside = [
        m[top:bottom, left:right].sum()
        for m, (top, left, bottom, right) in zip(maps, boxes, strict=True)
    ]
    return np.array(inside) / np.maximum(maps.sum(axis=(1, 2)), 1e-12)


def deletion(model, images, maps, classes):
    """Return each image's mean probability while its hottest squares become grey."""
    side = CANVAS // SQUARE
    squares = maps.reshape(len(maps), side, SQUARE, side, SQUARE).mean(axis=(2, 4))
    order = np.argsort(-squares.reshape(len(maps), -1), axis=1)
    changed = images.copy()
    found = []
    for step in range(side * side // 2 + 1):
        probabilities = model.predict(changed, verbose=0)
        found.append(probabilities[np.arange(len(images)), classes])
        for image, grey, square in zip(changed, images, order[:, step], strict=True):
            top, left = (SQUARE * int(n) for n in divmod(square, side))
            image[top : top + SQUARE, left : left + SQUARE] = grey.mean()
    return np.mean(found, axis=0)


def rank_correlation(maps, others):
    """Return Spearman's correlation of each pair of maps."""
    ranks = [
        np.argsort(np.argsort(x.reshape(len(x), -1), axis=1), axis=1)
        for x in (maps, others)
    ]
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)])


# ---------------------------------------------------------------- report


def main():
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="keep the network in this file")
    parser.add_argument("--output", type=Path, help="append the report to this file")
    options = parser.parse_args()

    (digits, labels), (test_digits, test_labels) = load_digits()
    model = trained(options, digits, labels)
    images, boxes = pictures(np.random.default_rng(options.seed + 1), test_digits)
    best = model.predict(images, verbose=0).argmax(axis=-1)
    accuracy = (best == test_labels).mean()
    chosen = np.flatnonzero(best == test_labels)[: options.images]
    images, boxes, classes = images[chosen], boxes[chosen], best[chosen]
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).mean()

    rows, learned = [], {}
    for name, method in METHODS.items():
        maps = learned[name] = method(model, images, classes)
        share = mass_inside(maps, boxes)
        drop = deletion(model, images, maps, classes)
        rows.append([name, *map(_mean, (share, drop))])
    checked = ("class_token_map", "grad_cam")
    sanity = []
    for part, network in randomised(model):
        row = [part]
        for name in checked:
            other = METHODS[name](network, images[:50], classes[:50])
            row.append(_mean(rank_correlation(learned[name][:50], other)))
        sanity.append(row)
    report = "\n\n".join(
        [
            f"## Explanations ({datetime.date.today()})",
            f"`{command_line()}`",
            f"- {versions()}\n- Accuracy on {len(test_labels)} unseen pictures "
            f"{accuracy:.1%}; measured on {len(images)} of those that are right. "
            f"Means and standard errors. The boxes cover {area / CANVAS**2:.3f} of the "
            "pictures.",
            "\n".join(table(["map", "mass in the box", "deletion"], rows)),
            "\n".join(table(["random weights down to", *checked], sanity)),
        ]
    )
    keep(f"{report}\n", options.output)


def _mean(values):
    return f"{values.mean():.3f} +- {values.std() / len(values) ** 0.5:.3f}"


if __name__ == "__main__":
    main()
