"""The paper's augmentation of images and batches.

The official code augments with timm (`create_transform` and `Mixup`), which uses PIL.
Here each result depends only on the image and on a seed that is passed in. So a
parallel pipeline is reproducible, and a resumed run sees the same images as a run that
was not interrupted. Keras's random layers draw from a variable of their own, which
makes both impossible. They also differ in other ways:

step             from          compared with timm, PIL    compared with Keras's layer
random resized   here          the same boxes; pixels     RandomCrop: a fixed size
crop                           within 1 level; in photos
                               1 in 1000 up to 13, since
                               PIL clips between passes
flip             TensorFlow    the same                   RandomFlip: the same
RandAugment      rand_augment  the same; an operation is  RandAugment: other draws
                               within 1 level             and magnitudes, see there
random erasing   here          the same boxes; noise is   RandomErasing: other
                               clipped to 0-255, 3 %      probabilities and aspects
                               of it
Mixup, CutMix    here          the same                   MixUp, CutMix: one weight
                                                          per image, other partners

"The same" means the same distribution; the random numbers differ from timm's. timm does
not take a batch with an odd number of images. The order of the steps is timm's: crop,
flip, RandAugment, erasing, then Mixup or CutMix of the batch.
"""

import math
from dataclasses import dataclass

from keras_cvt._utils import validation
from keras_cvt._utils.json_fields import JsonFields
from keras_cvt._utils.optional import tf
from keras_cvt.data.augmentation_boxes import inside_box, random_crop, random_erasing
from keras_cvt.data.rand_augment import apply_rand_augment
from keras_cvt.preprocessing.tensors import resize_tensor


@dataclass(frozen=True)
class Augmentation(JsonFields):
    """How training images are varied. The defaults are the paper's for CvT-13.

    Args:
        crop_scale: (least, most) area of the random resized crop as a share of the
            image, in (0, 1]. None resizes the whole image, whatever its aspect ratio.
            Defaults to `(0.08, 1.0)`.
        crop_aspect: (least, most) aspect ratio of that crop, width divided by height.
            Defaults to `(3 / 4, 4 / 3)`.
        crop_padding: Pixels of zeros around the resized image, from which a random
            crop of the image's size is then taken. 4 is usual for 32 x 32. Only with
            `crop_scale=None`. Defaults to `0`.
        flip: Whether half of the images are mirrored. Defaults to `True`.
        rand_augment: Magnitude of RandAugment, 0 (off) to 10. Defaults to `9.0`.
        rand_augment_ops: Number of operations that are drawn for an image. Each is
            applied with probability 0.5. Defaults to `2`.
        rand_augment_std: Standard deviation of the magnitude. Defaults to `0.5`.
        random_erasing: Probability that a box of an image becomes noise. Defaults to
            `0.25`.
        mixup: Alpha of Mixup's beta distribution, 0 for off. Defaults to `0.8`.
        cutmix: Alpha of CutMix's beta distribution, 0 for off. If both are on, a batch
            gets one of them, with probability 1/2 each. Defaults to `1.0`.
        repeats: Number of differently augmented copies of each image in an epoch,
            which then has correspondingly fewer images (repeated augmentation). The
            pipeline makes the copies. Defaults to `1`.

    Raises:
        ValueError: If an argument is out of range, or `crop_padding` is used with
            `crop_scale`.

    Example:
        >>> Augmentation(crop_scale=None, crop_padding=4).crop_padding
        4

    Reference:
        `AUG` in `experiments/imagenet/cvt/*.yaml` of the official code.
    """

    _needs_all = True

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
        validation.check_at_most(10, rand_augment=self.rand_augment)
        validation.check_at_most(1, random_erasing=self.random_erasing)
        if self.crop_scale is not None:
            self._check_range("crop_scale", 1)
        self._check_range("crop_aspect", math.inf)
        if self.crop_padding and self.crop_scale is not None:
            raise ValueError(
                "`crop_padding` needs images without a random resized crop; pass "
                f"crop_scale=None. Received: crop_padding={self.crop_padding}, "
                f"crop_scale={self.crop_scale}"
            )

    def _check_range(self, name, most):
        value = getattr(self, name)
        limit = "" if math.isinf(most) else f" and at most {most}"
        validation.check(
            lambda pair: (
                validation.is_pair(pair)
                and all(map(validation.is_number, pair))
                and 0 < pair[0] <= pair[1] <= most
            ),
            f"(least, most), two numbers above 0{limit}",
            **{name: value},
        )
        # JSON turns tuples into lists; a frozen instance must stay hashable.
        object.__setattr__(self, name, tuple(value))


def augment_image(
    image: "tf.Tensor",
    image_size: tuple[int, int],
    augmentation: Augmentation,
    seed: "tf.Tensor",
) -> "tf.Tensor":
    """Crop, resize, flip, vary and erase one image, eagerly or in a graph.

    Args:
        image: uint8 (H, W, C). H and W may be unknown in a graph. If C is not 3,
            RandAugment's `color` does nothing, and all channels use one mean.
        image_size: (height, width) of the result, in pixels.
        augmentation: The steps and their parameters.
        seed: int32 (2,). The same image and seed give the same bits.

    Returns:
        float32 (height, width, C) in 0-255, with a static shape.

    Raises:
        ValueError: If `image_size` is not two positive integers, or the image is not
            (H, W, C) with a known C.
    """
    height, width = image_size
    validation.check_int(1, height=height, width=width)
    image = tf.convert_to_tensor(image)
    if image.shape.rank != 3 or image.shape[-1] is None:
        raise ValueError(
            "An image to augment must be (H, W, C) with a known number of channels. "
            "State it with `tf.ensure_shape(image, (None, None, 3))`. "
            f"Received: shape={image.shape}"
        )
    crop_seed, flip_seed, operations_seed, erase_seed = tf.unstack(
        tf.random.experimental.stateless_split(tf.cast(seed, "int32"), 4), 4
    )
    if augmentation.crop_scale is not None:
        image = random_crop(
            image, augmentation.crop_scale, augmentation.crop_aspect, crop_seed
        )
    shape = (*image_size, image.shape[-1])
    image = tf.ensure_shape(resize_tensor(image, image_size), shape)
    image = tf.clip_by_value(image, 0.0, 255.0)
    if padding := augmentation.crop_padding:
        image = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
        image = tf.image.stateless_random_crop(image, shape, crop_seed)
    if augmentation.flip:
        image = tf.image.stateless_random_flip_left_right(image, flip_seed)
    if augmentation.rand_augment:
        image = apply_rand_augment(
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
    """Mix a batch with itself in reverse order, images and labels.

    Args:
        images: float32 (B, H, W, C). If B is odd, the middle image does not change.
        labels: float32 (B, classes), one-hot.
        augmentation: The parameters of Mixup and CutMix.
        seed: int32 (2,). The same batch and seed give the same bits.

    Returns:
        Images and labels of the same shapes, mixed with one weight per batch.
    """
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
    return kept * images + (1 - kept) * tf.reverse(images, [0]), kept


def _cutmix(images, kept, seed):
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    size = tf.cast((height, width), "float32")
    half = tf.cast(size * tf.sqrt(1 - kept), "int32") // 2
    middle = tf.cast(size * tf.random.stateless_uniform((2,), seed), "int32")
    start = tf.maximum(middle - half, 0)
    extent = tf.minimum(middle + half, (height, width)) - start
    inside = inside_box(*tf.unstack(start), *tf.unstack(extent), height, width)
    # The edge may cut the box: the weight is the share of pixels that were pasted.
    pasted = tf.reduce_prod(tf.cast(extent, "float32") / size)
    return tf.where(inside, tf.reverse(images, [0]), images), 1 - pasted


def _beta(alpha, seeds):
    """Draw from Beta(alpha, alpha) with two gamma variates: a / (a + b)."""
    a, b = (tf.random.stateless_gamma((), seeds[i], alpha) for i in range(2))
    # Both underflow to 0 only for a tiny alpha, with which 0 and 1 are as likely.
    return tf.where(a + b > 0, a / (a + b), 1.0)
