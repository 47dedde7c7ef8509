"""The paper's augmentation: what is drawn for an image and for a batch.

The official code augments with timm (`create_transform`, `Mixup`). Keras has layers
for much of it, but their randomness lives in variables, so that a parallel pipeline
is not reproducible and a resumed run not the same; everything here follows from a
seed that is passed in. Where Keras's layers have no randomness, they do the work.

| step | from | beside timm |
|---|---|---|
| random resized crop | TensorFlow | bicubic with antialiasing, as PIL does it |
| RandAugment | `rand_augment.py` | see there; `keras.layers.RandAugment` draws its operations once a batch, computes all of them, and turns by up to 324 degrees at the same magnitude |
| flip | TensorFlow | the same |
| random erasing | here | noise of the images' own mean and deviation, clipped to 0-255; `keras.layers.RandomErasing` fixes the aspect ratio |
| Mixup, CutMix | here | the same: one weight a batch, each image with its mirror in the batch; `keras.layers.MixUp` and `CutMix` draw a weight an image |
"""  # noqa: E501

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_cvt import validation
from keras_cvt.data.rand_augment import rand_augment
from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    import tensorflow as tf

_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied. The default is the paper's.

    Attributes:
        crop_scale: Area of the random resized crop as a share of the image, or None
            to resize the whole image, whatever its aspect ratio.
        crop_aspect: Width by height of that crop.
        crop_padding: Without `crop_scale`: zeros put around the resized image, of
            which a random part is then taken, in pixels; 4 is usual for 32 x 32.
        flip: Whether half the images are mirrored.
        rand_augment: RandAugment's magnitude, 0 (off) to 10.
        rand_augment_ops: How many operations are drawn for an image; each is applied
            with probability 0.5.
        rand_augment_std: Standard deviation of the magnitude.
        random_erasing: Probability that a box of an image becomes noise.
        mixup: Alpha of Mixup's beta distribution; 0 is off.
        cutmix: Alpha of CutMix's; 0 is off. With both, half the batches get either.
        repeats: Copies of an image, differently augmented, in an epoch that then
            has correspondingly fewer images (repeated augmentation).

    Raises:
        ValueError: If a field is out of range.

    Reference:
        `experiments/imagenet/cvt/*.yaml` of the official code.
    """

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    crop_padding: int = 0
    flip: bool = True
    rand_augment: float = 9.0
    rand_augment_ops: int = 2
    rand_augment_std: float = 0.5
    random_erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    repeats: int = 1

    def __post_init__(self):
        validation.check_int(0, crop_padding=self.crop_padding)
        validation.check_int(
            1, repeats=self.repeats, rand_augment_ops=self.rand_augment_ops
        )
        validation.check_bool(flip=self.flip)
        validation.check_non_negative(
            rand_augment=self.rand_augment,
            rand_augment_std=self.rand_augment_std,
            random_erasing=self.random_erasing,
            mixup=self.mixup,
            cutmix=self.cutmix,
        )
        for name, most in (("rand_augment", 10), ("random_erasing", 1)):
            if getattr(self, name) > most:
                raise ValueError(
                    f"`{name}` must be at most {most}. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        for name, most in (("crop_scale", 1.0), ("crop_aspect", float("inf"))):
            self._check_range(name, most)
        if self.crop_padding and self.crop_scale is not None:
            raise ValueError(
                "`crop_padding` is for images that are not cropped at random sizes; "
                f"pass crop_scale=None. Received: crop_padding={self.crop_padding}, "
                f"crop_scale={self.crop_scale}"
            )

    def _check_range(self, name, most):
        value = getattr(self, name)
        if value is None and name == "crop_scale":
            return
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        if not pair or not 0 < value[0] <= value[1] <= most:
            raise ValueError(
                f"`{name}` must be (least, most) above 0 and up to {most}. "
                f"Received: {name}={value!r}"
            )
        # JSON turns tuples into lists; a frozen instance must stay hashable.
        object.__setattr__(self, name, tuple(value))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        fields = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Augmentation":
        """Return the augmentation that `to_dict` described."""
        return cls(**fields)


def augment_image(
    image: "tf.Tensor",
    image_size: tuple[int, int],
    augmentation: Augmentation,
    seed: "tf.Tensor",
) -> "tf.Tensor":
    """Crop, flip, vary and erase one image.

    Args:
        image: (H, W, 3), uint8.
        image_size: (height, width) of the result.
        augmentation: What to do.
        seed: Two integers; the same seed does the same.

    Returns:
        (height, width, 3), float32 in 0-255.
    """
    import tensorflow as tf

    seeds = tf.random.experimental.stateless_split(seed, 5)
    if augmentation.crop_scale is not None:
        image = _random_crop(image, augmentation, seeds[0])
    image = tf.image.resize(image, image_size, "bicubic", antialias=True)
    image = tf.clip_by_value(image, 0.0, 255.0)
    if padding := augmentation.crop_padding:
        image = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
        shape = (*image_size, image.shape[-1])
        image = tf.image.stateless_random_crop(image, shape, seeds[0])
    if augmentation.flip:
        image = tf.image.stateless_random_flip_left_right(image, seeds[1])
    if augmentation.rand_augment:
        image = rand_augment(
            image,
            augmentation.rand_augment,
            augmentation.rand_augment_ops,
            augmentation.rand_augment_std,
            seeds[2],
        )
    if augmentation.random_erasing:
        image = _erase(image, augmentation.random_erasing, seeds[3])
    return tf.ensure_shape(image, (*image_size, None))


def _random_crop(image, augmentation, seed):
    import tensorflow as tf

    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros((1, 0, 4)),
        seed,
        aspect_ratio_range=augmentation.crop_aspect,
        area_range=augmentation.crop_scale,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.ensure_shape(tf.slice(image, begin, size), (None, None, image.shape[-1]))


def _erase(image, probability, seed):
    import tensorflow as tf

    seeds = tf.random.experimental.stateless_split(seed, 2)
    height, width, channels = image.shape
    drawn = tf.random.stateless_uniform((5,), seeds[0])
    area = _between(*_ERASED_AREA, drawn[1]) * height * width
    # Evenly in the logarithm, so that flat boxes are as likely as tall ones.
    low, high = (tf.math.log(bound) for bound in _ERASED_ASPECT)
    aspect = tf.exp(_between(low, high, drawn[2]))
    box_height = tf.minimum(tf.round(tf.sqrt(area * aspect)), float(height))
    box_width = tf.minimum(tf.round(tf.sqrt(area / aspect)), float(width))
    top = tf.floor(drawn[3] * (height - box_height + 1))
    left = tf.floor(drawn[4] * (width - box_width + 1))
    inside = _inside(top, left, box_height, box_width, height, width)
    noise = tf.random.stateless_normal((height, width, channels), seeds[1])
    mean, std = (255 * tf.constant(v) for v in (IMAGENET_MEAN, IMAGENET_STD))
    noise = tf.clip_by_value(mean + std * noise, 0.0, 255.0)
    return tf.where(inside & (drawn[0] < probability), noise, image)


def _inside(top, left, box_height, box_width, height, width):
    """Return (height, width, 1): whether a position is in the box."""
    import tensorflow as tf

    rows, columns = tf.range(float(height)), tf.range(float(width))
    row = (rows >= top) & (rows < top + box_height)
    column = (columns >= left) & (columns < left + box_width)
    return row[:, None, None] & column[None, :, None]


def _between(low, high, share):
    return low + (high - low) * share


def augment_batch(
    images: "tf.Tensor",
    labels: "tf.Tensor",
    augmentation: Augmentation,
    seed: "tf.Tensor",
) -> tuple["tf.Tensor", "tf.Tensor"]:
    """Mix each image of a batch with another, and their labels as much.

    Args:
        images: (B, height, width, C), float32.
        labels: One-hot, (B, classes), float32.
        augmentation: What to do.
        seed: Two integers; the same seed does the same.

    Returns:
        Images and labels of the same shapes.
    """
    import tensorflow as tf

    seeds = tf.random.experimental.stateless_split(seed, 4)
    mix = {
        name: lambda method=method, alpha=alpha: method(images, alpha, seeds)
        for name, method, alpha in (
            ("mixup", _mixup, augmentation.mixup),
            ("cutmix", _cutmix, augmentation.cutmix),
        )
        if alpha
    }
    if not mix:
        return images, labels
    if len(mix) == 1:
        ((_, only),) = mix.items()
        images, kept = only()
    else:
        first = tf.random.stateless_uniform((), seeds[0]) < 0.5
        images, kept = tf.cond(first, mix["mixup"], mix["cutmix"])
    return images, kept * labels + (1 - kept) * labels[::-1]


def _mixup(images, alpha, seeds):
    kept = _beta(alpha, seeds)
    return kept * images + (1 - kept) * images[::-1], kept


def _cutmix(images, alpha, seeds):
    import tensorflow as tf

    _, height, width, _ = images.shape
    share = tf.sqrt(1 - _beta(alpha, seeds))
    centre = tf.random.stateless_uniform((2,), seeds[3])
    bounds = []
    for side, place in zip((height, width), tf.unstack(centre), strict=True):
        half = tf.floor(side * share) // 2
        middle = tf.floor(place * side)
        bounds.append(tf.clip_by_value(middle - half, 0.0, side))
        bounds.append(tf.clip_by_value(middle + half, 0.0, side))
    top, bottom, left, right = bounds
    inside = _inside(top, left, bottom - top, right - left, height, width)
    # The box may reach over the edge: what counts is what was pasted.
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return tf.where(inside, images[::-1], images), kept


def _beta(alpha, seeds):
    """Draw from Beta(alpha, alpha), as a ratio of two gamma variates."""
    import tensorflow as tf

    a = tf.random.stateless_gamma((), seeds[1], alpha)
    b = tf.random.stateless_gamma((), seeds[2], alpha)
    # Both underflow to 0 only for a tiny alpha, where either end is as likely.
    return tf.where(a + b > 0, a / (a + b), 1.0)
