"""Pictures of several digits, with a mask, boxes and labels, for dense prediction.

scikit-learn ships 1,797 handwritten digits of 8 x 8 pixels. A scene shows some of them
at random places, sizes and grey levels, in front of lines, discs, a gradient and noise.
The digits of training and validation scenes are different ones.

    scenes = DigitScenes("train", 1000, (128, 128), seed=0)
    image, mask, boxes, labels = scenes[0]
"""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scenes import Scenes

from keras_cvt._utils.optional import require

NAMES = tuple(map(str, range(10)))
# Height of a digit as a share of the picture's shorter side.
HEIGHTS = (0.22, 0.5)
MOST_DIGITS = 6
# Grey levels between a digit and what is behind it, on average.
_CONTRAST = 70


class Scene(NamedTuple):
    """One picture.

    Attributes:
        image: uint8 (H, W, 3).
        mask: uint8 (H, W): 0 for the background, 1 + the digit elsewhere.
        boxes: float32 (N, 4): left, top, right and bottom edge in pixels.
        labels: int32 (N,): the digits, in the order of the boxes.
    """

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


class DigitScenes(Scenes):
    """Scenes of (height, width) pixels: of the split "train" or "validation"."""

    splits = ("train", "validation")

    def make(self, rng, index):
        return _scene(rng, *_digits(self.split), *self.size)


@functools.cache
def _digits(split):
    """Return the digits of a split, uint8 (N, 8, 8), and what they are."""
    datasets = require("sklearn.datasets", "dense", "The digits")
    digits, labels = datasets.load_digits(return_X_y=True)
    digits = np.uint8(digits.reshape(-1, 8, 8) / 16 * 255)
    # Every fourth digit is for validation.
    chosen = (np.arange(len(labels)) % 4 == 0) == bool(split)
    return digits[chosen], labels[chosen]


def _scene(rng, digits, labels, height, width):
    canvas = _background(rng, height, width)
    mask = np.zeros((height, width), "uint8")
    boxes, shown = [], []
    # A digit that finds no free place is left out.
    for index in rng.integers(len(digits), size=rng.integers(2, MOST_DIGITS + 1)):
        coverage = _coverage(rng, digits[index], min(height, width))
        h, w = coverage.shape
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        place = slice(top, top + h), slice(left, left + w)
        if mask[place].any():
            continue
        behind = canvas[place].mean()
        levels = [g for g in range(256) if abs(g - behind) > _CONTRAST]
        canvas[place] += coverage * (rng.choice(levels) - canvas[place])
        mask[place][coverage > 0.5] = 1 + labels[index]
        boxes.append((left, top, left + w, top + h))
        shown.append(labels[index])
    image = np.uint8(np.clip(canvas + rng.normal(0, 6, canvas.shape), 0, 255))
    return Scene(
        np.repeat(image[..., None], 3, axis=-1),
        mask,
        np.array(boxes, "float32"),
        np.array(shown, "int32"),
    )


def _coverage(rng, digit, side):
    """Return the share of each pixel that the digit covers, cropped to the digit."""
    size = round(side * rng.uniform(*HEIGHTS))
    enlarged = Image.fromarray(digit).resize((size, size), Image.Resampling.BICUBIC)
    coverage = np.clip(np.asarray(enlarged) / 255 * 5 - 1.75, 0, 1)
    rows, columns = np.nonzero(coverage > 0.5)
    return coverage[
        rows.min() : rows.max() + 1,
        columns.min() : columns.max() + 1,
    ]


def _background(rng, height, width):
    """Return a gradient with lines and discs, float64 (H, W)."""
    corners = Image.fromarray(rng.integers(40, 216, (2, 2), dtype="uint8"))
    picture = corners.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    side = min(height, width)
    for _ in range(rng.integers(3, 9)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        dx, dy = rng.uniform(-side / 3, side / 3, 2)
        level = int(rng.integers(256))
        if rng.random() < 0.6:
            draw.line((x, y, x + dx, y + dy), level, 1 + side // 100)
        else:
            radius = side / 40
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), level)
    return np.asarray(picture, "float64").copy()
