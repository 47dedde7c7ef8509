"""The evaluation transform in the words of transformers' `preprocessor_config.json`."""

import logging
from collections.abc import Mapping
from typing import Any

from keras_cvt.eval_transform import EvalTransform
from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD

logger = logging.getLogger(__name__)

FILE = "preprocessor_config.json"

# Of `ConvNextImageProcessor`, which is CvT's: it crops below that size only.
_SQUASHED_FROM = 384
_CROP_RATIO = 0.875


def to_transformers(transform: EvalTransform) -> dict[str, Any] | None:
    """Return the content of `preprocessor_config.json`.

    It normalises with the ImageNet statistics. None where transformers has no such
    transform.
    """
    height, width = transform.image_size
    shared = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
        "resample": 3,
    }
    if transform.crop_ratio is None:
        size = {"height": height, "width": width}
        return {"image_processor_type": "ViTImageProcessor", "size": size, **shared}
    if height != width or height >= _SQUASHED_FROM:
        return None
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": height},
        "crop_pct": transform.crop_ratio,
        **shared,
    }


def from_transformers(processor: Mapping[str, Any]) -> EvalTransform | None:
    """Return the transform that a `preprocessor_config.json` describes.

    None where it describes none of ours, such as a resize without a fixed result.

    Raises:
        ValueError: If a size or a share is out of range.
    """
    transform = _transform(processor)
    if transform is not None:
        _warn_of_statistics(processor)
    return transform


def of_image_size(image_size: int) -> EvalTransform:
    """Return how transformers' CvT makes square images where nothing else is said.

    Raises:
        ValueError: If `image_size` is out of range.
    """
    return _convnext(image_size, None)


def _transform(processor):
    if processor.get("do_resize") is False:
        return None
    # Older releases wrote `feature_extractor_type`, and plain numbers as sizes.
    kind = processor.get("image_processor_type") or processor.get(
        "feature_extractor_type"
    )
    size = processor.get("size")
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    edge = edge if isinstance(edge, int) else None
    if str(kind).startswith("ConvNext") or "crop_pct" in processor:
        return None if edge is None else _convnext(edge, processor.get("crop_pct"))
    crop = None
    if processor.get("do_center_crop"):
        crop = _height_and_width(processor.get("crop_size"))
    fixed = _height_and_width(size)
    if fixed is not None:
        return EvalTransform(fixed, None) if crop in (None, fixed) else None
    # A crop that is larger than the image would have black edges.
    if edge is None or crop is None or crop[0] != crop[1] or crop[0] > edge:
        return None
    return EvalTransform(crop, _share(crop[0], edge))


def _convnext(edge, crop_ratio):
    crop_ratio = _CROP_RATIO if crop_ratio is None else crop_ratio
    transform = EvalTransform((edge, edge), crop_ratio)
    return transform if edge < _SQUASHED_FROM else EvalTransform((edge, edge), None)


def _height_and_width(size):
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")]
    elif isinstance(size, int):
        size = [size, size]
    if not isinstance(size, list) or [type(side) for side in size] != [int, int]:
        return None
    return tuple(size)


def _share(crop, edge):
    """Return the ratio whose resized side is `edge` again, rounded down."""
    ratio = crop / edge
    return ratio if int(crop / ratio) == edge else crop / (edge + 0.5)


def _warn_of_statistics(processor):
    for name, ours in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
        theirs = processor.get(name)
        if theirs is not None and theirs != list(ours):
            logger.warning(
                "%s says %s=%s, but a CvT here normalises with %s: pass images "
                "normalised so to a model with include_preprocessing=False.",
                FILE,
                name,
                theirs,
                ours,
            )
