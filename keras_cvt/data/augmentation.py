"""The paper's augmentation: what is drawn for an image and for a batch.

The official code augments with timm (`create_transform` and `Mixup`, timm on PIL).
Everything here follows from the image and a seed that is passed in, so that a parallel
pipeline is reproducible and a resumed run sees what it would have seen. Keras's random
layers draw from a variable of theirs, which rules out both, and differ otherwise:

step             from          beside timm and PIL        beside Keras's layer
random resized   here          the same boxes; pixels     RandomCrop: of a fixed
crop                           within 1 level, of photos  size
                               1 in 1000 up to 13, as
                               PIL clips between passes
flip             TensorFlow    the same                   RandomFlip: the same
RandAugment      rand_augment  the same; an operation is  RandAugment: other draws
                               within 1 level             and magnitudes, see there
random erasing   here          the same boxes; noise is   RandomErasing: other
                               clipped to 0-255, 3 %      probabilities and aspects
                               of it
Mixup, CutMix    here          the same                   MixUp, CutMix: a weight an
                                                          image, other partners

"The same" is of distributions: the random numbers are not timm's. Nor does timm take a
batch with an odd number of images. The order is timm's: crop, flip, RandAugment,
erasing, and Mixup or CutMix of batches.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_cvt import validation
from keras_cvt.data.augmentation_boxes import inside_box, random_crop, random_erasing
from keras_cvt.data.rand_augment import rand_augment
from keras_cvt.preprocessing.tensors import resize_tensor

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied. The default is the paper's for CvT-13.

    Args:
        crop_scale: (least, most) area of the random resized crop as a share of the
            image, in (0, 1]; or None to resize the whole image, whatever its aspect
            ratio.
        crop_aspect: (least, most) width by height of that crop.
        crop_padding: Without `crop_scale`: pixels of zeros put around the resized
            image, of which a random part is then taken; 4 is usual for 32 x 32.
        flip: Whether half the images are mirrored.
        rand_augment: RandAugment's magnitude, 0 (off) to 10.
        rand_augment_ops: How many operations are drawn for an image; each is applied
            with probability 0.5.
        rand_augment_std: Standard deviation of the magnitude.
        random_erasing: Probability that a box of an image becomes noise.
        mixup: Alpha of Mixup's beta distribution; 0 is off.
        cutmix: Alpha of CutMix's; 0 is off. With both on, a batch gets the one or the
            other, with probability 1/2 each.
        repeats: Copies of an image, differently augmented, in an epoch that then has
            correspondingly fewer images (repeated augmentation). The pipeline makes
            them.

    Raises:
        ValueError: If an argument is out of range, or `crop_padding` is used with
            `crop_scale`.

    Example:
        >>> Augmentation(crop_scale=None, crop_padding=4).crop_padding
        4

    Reference:
        `AUG` in `experiments/imagenet/cvt/*.yaml` of the official code.
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
        if self.crop_scale is not None:
            self._check_range("crop_scale", 1)
        self._check_range("crop_aspect", math.inf)
        if self.crop_padding and self.crop_scale is not None:
            raise ValueError(
                "`crop_padding` is for images that are not cropped at random sizes; "
                f"pass crop_scale=None. Received: crop_padding={self.crop_padding}, "
                f"crop_scale={self.crop_scale}"
            )

    def _check_range(self, name, most):
        value = getattr(self, name)
        pair = isinstance(value, (tuple, list)) and len(value) == 2
        numbers = pair and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
            for v in value
        )
        if not numbers or not 0 < value[0] <= value[1] <= most:
            above = "" if math.isinf(most) else f" and at most {most}"
            raise ValueError(
                f"`{name}` must be (least, most), numbers above 0{above}. "
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
        """Return the augmentation that `to_dict` described.

        Raises:
            ValueError: If a field is missing, unknown or invalid.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != names:
            raise ValueError(
                f"An augmentation has the fields {', '.join(sorted(names))}. "
                f"Received: {dict(fields)!r}"
            )
        return cls(**fields)


def augment_image(
    image: "tf.Tensor",
    image_size: tuple[int, int],
    augmentation: Augmentation,
    seed: "tf.Tensor",
) -> "tf.Tensor":
    """Crop, resize, flip, vary and erase one image, eagerly or in a graph.

    Args:
        image: uint8 (H, W, C), of which H and W may be unknown in a graph. Without 3
            channels, they have no colour that could vary, and grey for the ImageNet
            mean.
        image_size: (height, width) of the result, in pixels.
        augmentation: What to do.
        seed: int32 (2,). The same image and seed give the same bits.

    Returns:
        float32 (height, width, C) in 0-255, of a static shape.

    Raises:
        ValueError: If `image_size` is not two positive integers, or the image is not
            (H, W, C) with a known C.
    """
    import tensorflow as tf

    height, width = image_size
    validation.check_int(1, height=height, width=width)
    image = tf.convert_to_tensor(image)
    if image.shape.rank != 3 or image.shape[-1] is None:
        raise ValueError(
            "An image to augment must be (H, W, C) with a known number of channels; "
            "`tf.ensure_shape(image, (None, None, 3))` states it. "
            f"Received: shape={image.shape}"
        )
    crop_seed, flip_seed, operations_seed, erase_seed = tf.unstack(
        tf.random.experimental.stateless_split(tf.cast(seed, "int32"), 4), 4
    )
    if augmentation.crop_scale is not None:
        image = random_crop(
            image, augmentation.crop_scale, augmentation.crop_aspect, crop_seed
        )
    channels = image.shape[-1]
    image = tf.ensure_shape(resize_tensor(image, image_size), (*image_size, channels))
    image = tf.clip_by_value(image, 0.0, 255.0)
    if padding := augmentation.crop_padding:
        shape = image.shape
        image = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
        image = tf.image.stateless_random_crop(image, shape, crop_seed)
    if augmentation.flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    if augmentation.rand_augment:
        image = rand_augment(
            image,
            augmentation.rand_augment,
            augmentation.rand_augment_ops,
            augmentation.rand_augment_std,
            operations_seed,
        )
    if augmentation.random_erasing:
        image = random_erasing(image, augmentation.random_erasing, erase_seed)
    return image


def augment_batch(
    images: "tf.Tensor",
    labels: "tf.Tensor",
    augmentation: Augmentation,
    seed: "tf.Tensor",
) -> tuple["tf.Tensor", "tf.Tensor"]:
    """Mix the images of a batch with those of the reversed batch, and their labels.

    Args:
        images: float32 (B, h, w, C). With an odd B the middle image stays as it is.
        labels: float32 (B, classes), one-hot.
        augmentation: What to do.
        seed: int32 (2,). The same batch and seed give the same bits.

    Returns:
        Images and labels of the same shapes, mixed with one weight a batch.
    """
    import tensorflow as tf

    images = tf.convert_to_tensor(images, "float32")
    labels = tf.cast(labels, "float32")
    kinds = ((_mixup, augmentation.mixup), (_cutmix, augmentation.cutmix))
    kinds = [kind for kind in kinds if kind[1]]
    if not kinds:
        return images, labels
    seeds = tf.random.experimental.stateless_split(tf.cast(seed, "int32"), 4)
    branches = [
        lambda mix=mix, alpha=alpha: mix(images, _beta(alpha, seeds[:2]), seeds[2])
        for mix, alpha in kinds
    ]
    chosen = tf.random.stateless_uniform((), seeds[3]) * len(branches)
    images, kept = tf.switch_case(tf.cast(chosen, "int32"), branches)
    return images, kept * labels + (1 - kept) * tf.reverse(labels, [0])


def _mixup(images, kept, seed):
    import tensorflow as tf

    return kept * images + (1 - kept) * tf.reverse(images, [0]), kept


def _cutmix(images, kept, seed):
    import tensorflow as tf

    height, width = tf.shape(images)[1], tf.shape(images)[2]
    size = tf.cast((height, width), "float32")
    half = tf.cast(size * tf.sqrt(1 - kept), "int32") // 2
    middle = tf.cast(size * tf.random.stateless_uniform((2,), seed), "int32")
    start = tf.maximum(middle - half, 0)
    extent = tf.minimum(middle + half, (height, width)) - start
    inside = inside_box(*tf.unstack(start), *tf.unstack(extent), height, width)
    # The box may reach over the edge: what counts is what was pasted.
    pasted = tf.reduce_prod(tf.cast(extent, "float32") / size)
    return tf.where(inside, tf.reverse(images, [0]), images), 1 - pasted


def _beta(alpha, seeds):
    """Draw from Beta(alpha, alpha), as a ratio of two gamma variates."""
    import tensorflow as tf

    a, b = (tf.random.stateless_gamma((), seeds[i], alpha) for i in range(2))
    # Both underflow to 0 only for a tiny alpha, where either end is as likely.
    return tf.where(a + b > 0, a / (a + b), 1.0)
