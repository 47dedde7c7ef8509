"""The resize and crop with which weights were evaluated."""

from dataclasses import dataclass

from keras_cvt._utils import validation
from keras_cvt._utils.json_fields import JsonFields


@dataclass(frozen=True)
class EvalTransform(JsonFields):
    """How images were resized and cropped when weights were evaluated.

    Args:
        image_size: (height, width) of the result, in pixels.
        crop_ratio: Share of the resized image that the centre crop keeps, in
            (0, 1]. With 0.875 and 224, the short side is resized to
            `int(224 / 0.875)` = 256, and the centre is cropped. The aspect ratio
            stays. If height and width differ, the image is scaled until it just
            covers both divided by `crop_ratio`. None resizes to `image_size` without
            a crop, whatever the aspect ratio.

    Raises:
        ValueError: If `image_size` is not two positive integers or `crop_ratio` is
            neither None nor in (0, 1].

    Example:
        >>> EvalTransform((224, 224), 0.875).to_dict()
        {'image_size': [224, 224], 'crop_ratio': 0.875}

    Reference:
        `build_transforms` of the official `lib/dataset/transformas/build.py`:
        `TEST.CENTER_CROP` true (224) and false (384).
    """

    image_size: tuple[int, int]
    crop_ratio: float | None

    def __post_init__(self):
        size, ratio = self.image_size, self.crop_ratio
        validation.check(validation.is_pair, "(height, width)", image_size=size)
        validation.check_int(1, height=size[0], width=size[1])
        # JSON turns tuples into lists; a frozen instance must stay hashable.
        object.__setattr__(self, "image_size", tuple(size))
        if ratio is not None:
            validation.check(
                lambda x: validation.is_number(x) and 0 < x <= 1,
                "None or a number in (0, 1]",
                crop_ratio=ratio,
            )

    def at_size(self, height: int | None, width: int | None) -> "EvalTransform":
        """Return the transform with another image size; None keeps its own."""
        if height is None or width is None:
            return self
        return EvalTransform((height, width), self.crop_ratio)
