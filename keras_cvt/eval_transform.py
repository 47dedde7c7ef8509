"""How the images of an evaluation were made: a value that travels with weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_cvt import validation


@dataclass(frozen=True)
class EvalTransform:
    """How images were resized and cropped when some weights were evaluated.

    Args:
        image_size: (height, width) of the result, in pixels.
        crop_ratio: Share of the resized image that the centre crop keeps, in
            (0, 1]. 0.875 at 224 resizes the short side to `int(224 / 0.875)` = 256,
            keeps the aspect ratio and crops the centre. For a height that is not
            the width, the image is scaled until it just covers both divided by
            `crop_ratio`. None resizes to `image_size`, whatever the aspect ratio,
            and crops nothing.

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
        size = self.image_size
        if not isinstance(size, (tuple, list)) or len(size) != 2:
            raise ValueError(
                "`image_size` must be (height, width). "
                f"Received: image_size={self.image_size!r}"
            )
        validation.check_int(1, height=size[0], width=size[1])
        # JSON turns tuples into lists; a frozen instance must stay hashable.
        object.__setattr__(self, "image_size", tuple(size))
        ratio = self.crop_ratio
        if ratio is None:
            return
        number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
        if not number or not 0 < ratio <= 1:
            raise ValueError(
                "`crop_ratio` must be None or a number in (0, 1]. "
                f"Received: crop_ratio={ratio!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {"image_size": list(self.image_size), "crop_ratio": self.crop_ratio}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "EvalTransform":
        """Return the transform that `to_dict` described.

        Raises:
            ValueError: If a field is missing, unknown or invalid.
        """
        if set(fields) != {"image_size", "crop_ratio"}:
            raise ValueError(
                "An evaluation transform has the fields `image_size` and "
                f"`crop_ratio`. Received: {dict(fields)!r}"
            )
        return cls(**fields)
