"""Scenes of one object in front of a photo, made of photos that packages ship.

The objects are cut out of photos of scikit-image and scikit-learn, and shown at random
sizes, angles, places and light, in front of other photos and between patches of them.
What is behind the objects of test scenes are photos that no training scene shows, and
the coins are others too. Of the other objects there is one photo each.

    scenes = PhotoScenes("test", 100, 288, seed=0)
    image, outline, label = scenes[0]
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from scenes import Scenes
from skimage import data
from sklearn import datasets

NAMES = (
    "astronaut",
    "cat",
    "coffee",
    "coin",
    "flower",
    "motorcycle",
    "retina",
    "space shuttle",
)
# Photos behind the objects.
_BEHIND = (
    ("brick", "grass", "moon", "immunohistochemistry", "rocket", "cell"),
    ("china.jpg", "gravel", "hubble_deep_field", "camera"),
)
# Name -> photo and shapes in its pixels: ellipses by their boxes, or polygons.
_SHAPES = {
    "astronaut": (
        "astronaut",
        "ellipse 152 10 303 140",
        "ellipse 172 60 276 192",
        "ellipse 112 146 306 298",
        "polygon 125 225 60 260 38 300 25 420 300 420 365 345 340 262 295 230",
    ),
    "cat": ("chelsea", "ellipse 38 4 388 296"),
    "coffee": ("coffee", "ellipse 78 64 480 390", "ellipse 172 17 410 220"),
    "flower": ("flower.jpg", "ellipse 168 84 448 360"),
    "motorcycle": (
        "motorcycle",
        "ellipse 118 234 282 406",
        "ellipse 510 268 686 452",
        "polygon 90 215 150 150 345 185 465 150 490 65 545 105 590 125 560 200 "
        "640 280 645 315 545 330 470 375 335 438 120 330",
    ),
    "retina": ("retina", "ellipse 30 30 1380 1380"),
    "space shuttle": (
        "astronaut",
        "polygon 380 55 394 38 402 4 416 -6 432 4 440 38 456 55 458 195 474 262 "
        "470 278 368 278 354 216 378 150",
    ),
}
# Centre (x, y) and radius of each coin. The last six are for test scenes.
_COINS = (
    *((44, 54, 23), (100, 56, 20), (155, 50, 24), (216, 48, 25), (276, 51, 22)),
    *((335, 45, 31), (45, 124, 21), (102, 124, 19), (154, 126, 20), (205, 124, 21)),
    *((271, 118, 26), (337, 124, 20), (44, 197, 20), (101, 195, 22), (154, 197, 20)),
    *((212, 192, 25), (273, 195, 23), (346, 186, 32), (46, 259, 29), (113, 266, 22)),
    *((171, 263, 29), (243, 264, 26), (302, 265, 29), (357, 268, 23)),
)
_TEST_COINS = 6
# Dark and light colours of coins.
_GOLD = ("#2a2010", "#ffdc80")
# Size of an object, the root of its width times height, as a share of the scene's side.
_SIZES = (0.4, 0.65)
# Longer sides are cut to this share.
_LONGEST = 0.9
# Pixels that the longer side of a cut-out is kept at.
_KEPT = 256


class Scene(NamedTuple):
    """One scene.

    Attributes:
        image: uint8 (H, W, 3).
        outline: bool (H, W), True on the object.
        label: Index of the object in `NAMES`.
    """

    image: np.ndarray
    outline: np.ndarray
    label: int


class PhotoScenes(Scenes):
    """Scenes of `size` x `size` pixels, of the split "train" or "test".

    The objects take turns. A scene shows the same at any size.
    """

    splits = ("train", "test")

    def make(self, rng, index):
        return _scene(rng, index % len(NAMES), self.split, self.size)


@functools.cache
def load_photo(name):
    """Return a photo of scikit-image, or with a suffix of scikit-learn, grey or RGB."""
    if name.endswith(".jpg"):
        return Image.fromarray(datasets.load_sample_image(name))
    if name == "motorcycle":
        return Image.fromarray(data.stereo_motorcycle()[0])
    return Image.fromarray(getattr(data, name)())


def _cut_out(photo, shapes):
    """Return the part of a photo inside of shapes, RGBA with soft edges."""
    mask = Image.new("L", photo.size)
    for shape in shapes:
        kind, *points = shape.split()
        getattr(ImageDraw.Draw(mask), kind)(list(map(int, points)), fill=255)
    blurred = mask.filter(ImageFilter.GaussianBlur(max(photo.size) / 400))
    cut = photo.convert("RGB")
    cut.putalpha(blurred)
    cut = cut.crop(blurred.getbbox())
    cut.thumbnail((_KEPT, _KEPT))
    return cut


@functools.cache
def _objects(name, split):
    """Return the cut-outs of an object."""
    if name != "coin":
        photo, *shapes = _SHAPES[name]
        return [_cut_out(load_photo(photo), shapes)]
    coins = _COINS[-_TEST_COINS:] if split else _COINS[:-_TEST_COINS]
    shapes = [
        f"ellipse {x - r + 1} {y - r + 1} {x + r - 1} {y + r - 1}" for x, y, r in coins
    ]
    return [_cut_out(load_photo("coins"), [shape]) for shape in shapes]


def _scene(rng, label, split, side):
    canvas = _behind(rng, split, side)
    for _ in range(rng.integers(0, 4)):
        size = rng.uniform(0.15, 0.5)
        _paste(rng, canvas, _patch(rng, split, round(size * side)), size)
    choices = _objects(NAMES[label], split)
    thing = choices[rng.integers(len(choices))]
    if NAMES[label] == "coin":
        thing = _coloured(thing, *_GOLD)
    outline = _paste(rng, canvas, _lit(rng, thing), rng.uniform(*_SIZES))
    return Scene(np.asarray(_lit(rng, canvas)), outline, label)


def _behind(rng, split, side):
    """Return a square part of a photo, RGB."""
    photo = load_photo(_BEHIND[split][rng.integers(len(_BEHIND[split]))])
    length = min(photo.size) * rng.uniform(0.4, 1)
    left, top = (rng.uniform(0, whole - length) for whole in photo.size)
    box = (left, top, left + length, top + length)
    part = photo.resize((side, side), Image.Resampling.BICUBIC, box, reducing_gap=2)
    if part.mode == "L":
        dark, light = rng.integers(0, 90, 3), rng.integers(150, 256, 3)
        part = ImageOps.colorize(part, tuple(map(int, dark)), tuple(map(int, light)))
    else:
        part = Image.merge(
            "RGB", [part.getchannel(int(i)) for i in _channels(rng, split)]
        )
    return ImageOps.mirror(part) if rng.random() < 0.5 else part


def _channels(rng, split):
    """Return an order of red, green and blue: in training photos any."""
    order = rng.permutation(3)
    return range(3) if split else order


def _patch(rng, split, side):
    """Return an ellipse of a photo, RGBA: something else to look at."""
    patch = _behind(rng, split, side)
    patch = patch.resize((side, round(side * rng.uniform(0.5, 1))))
    # Smooth edges: drawn at four times the size.
    mask = Image.new("L", tuple(4 * length for length in patch.size))
    ImageDraw.Draw(mask).ellipse((0, 0, *mask.size), fill=255)
    patch.putalpha(mask.resize(patch.size, Image.Resampling.BOX))
    return patch


def _coloured(thing, dark, light):
    coloured = ImageOps.colorize(thing.convert("L"), dark, light)
    coloured.putalpha(thing.getchannel("A"))
    return coloured


def _lit(rng, image):
    """Return a picture in another light."""
    for change, amount in (
        (ImageEnhance.Brightness, 0.25),
        (ImageEnhance.Contrast, 0.2),
        (ImageEnhance.Color, 0.3),
    ):
        image = change(image).enhance(rng.uniform(1 - amount, 1 + amount))
    return image


def _paste(rng, canvas, thing, size):
    """Put a picture anywhere on a square canvas, and return where it is, bool (H, W).

    `size` is the root of its width times height as a share of the canvas's side.
    """
    side = canvas.width
    scale = size / math.sqrt(math.prod(thing.size))
    scale = side * min(scale, _LONGEST / max(thing.size))
    shape = tuple(max(1, round(length * scale)) for length in thing.size)
    thing = thing.resize(shape, Image.Resampling.LANCZOS)
    thing = ImageOps.mirror(thing) if rng.random() < 0.5 else thing
    angle = rng.uniform(-30, 30)
    thing = thing.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    # The corners of a turned picture are empty.
    thing = thing.crop(thing.getchannel("A").getbbox())
    place = [int(rng.random() * max(0, side - length)) for length in thing.size]
    canvas.paste(thing, tuple(place), thing)
    covered = Image.new("L", canvas.size)
    covered.paste(thing.getchannel("A"), tuple(place))
    return np.asarray(covered) > 127
