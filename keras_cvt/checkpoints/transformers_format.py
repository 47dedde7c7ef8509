"""What lies beside a checkpoint in transformers' layout, and which networks fit it.

`config.json` and `preprocessor_config.json`, to and from a `ModelDescription`.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_cvt._utils.errors import CheckpointError
from keras_cvt.config import CvTConfig, id_maps
from keras_cvt.description import ACTIVATIONS, ModelDescription
from keras_cvt.eval_transform import EvalTransform
from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD

logger = logging.getLogger(__name__)

FILE = "preprocessor_config.json"
# Our part of `config.json`; transformers keeps it without reading it.
DESCRIPTION_KEY = "keras_cvt"
# Without our part, how images are made, if transformers has no such transform.
_TRANSFORM_KEY = "eval_transform"
_MAX_JSON_BYTES = 4 * 2**20
# Activation of a head for each `problem_type` of transformers.
HEADS = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": None,
}
# What the name of a model that is loaded from a file may not contain.
_ODD = re.compile(r"[^\w.-]")
# Pixels of one side. Images are made that large before a network sees them.
MAX_IMAGE_SIZE = 8192

# `ConvNextImageProcessor`, which is CvT's, crops below this size only.
_SQUASHED_FROM = 384
_CROP_RATIO = 0.875


def obstacles(config: CvTConfig) -> str:
    """Return why transformers' CvT cannot run a network, or "" if it can.

    Its activation, which transformers always takes for the exact GELU, is another
    matter.
    """
    try:
        config.to_transformers(classes=0)
    except ValueError as error:
        return str(error)
    unfit = [
        f"stage {i} needs projection 'dw_bn', not {stage.projection!r}"
        for i, stage in enumerate(config.stages)
        if stage.projection != "dw_bn"
    ]
    # It looks up a drop path rate of stage i by i, not by block.
    unfit += [
        f"stage {i} needs a depth of more than {i}, not {stage.depth}"
        for i, stage in enumerate(config.stages)
        if stage.depth <= i
    ]
    # Its classifier always asks for the class token, and makes every one as wide as the
    # last stage.
    if not config.stages[-1].cls_token:
        unfit.append("the last stage needs a class token")
    width = config.stages[-1].embed_dim
    unfit += [
        f"stage {i} needs {width} channels for its class token, not {stage.embed_dim}"
        for i, stage in enumerate(config.stages)
        if stage.cls_token and stage.embed_dim != width
    ]
    if not unfit:
        return ""
    return (
        "transformers' CvT cannot run this network; save it with layout='official'. "
        f"Received: {', '.join(unfit)}"
    )


def description_files(description: ModelDescription) -> dict[str, dict[str, Any]]:
    """Return the JSON files that describe a model beside its checkpoint, by name.

    transformers reads its part of `config.json` if it has such a network, and
    otherwise refuses its `model_type`. `keras_cvt` reads its own part. There is a
    `preprocessor_config.json` only if transformers has such a transform, and if the
    model normalises its images itself: of other models nobody knows how it is done.
    """
    config, classes = description.config, description.classes
    values = {"model_type": "keras_cvt", "num_channels": description.channels}
    if config is not None and not obstacles(config):
        height = description.eval_transform.image_size[0]
        values = config.to_transformers(classes, description.channels, height)
        # transformers' pipelines would compute a softmax otherwise.
        if classes and description.answers == "decisions":
            values["problem_type"] = "multi_label_classification"
        elif classes and description.answers == "values":
            values["problem_type"] = "regression"
    values |= id_maps(description.class_names, classes)
    if description.activation in (*ACTIVATIONS, None):
        # The class names stand above.
        plain = _ODD.sub("_", description.name)[:100] or "cvt"
        own = description.replace(name=plain, class_names=None)
        values[DESCRIPTION_KEY] = own.to_dict()
    else:
        values[_TRANSFORM_KEY] = description.eval_transform.to_dict()
    files = {"config.json": values}
    processor = to_transformers(description.eval_transform)
    if processor and description.value_range is not None:
        files[FILE] = processor
    return files


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that describes a model.

    Raises:
        ValueError: If the file is not a JSON object of at most 4 MiB.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"Expected at most {_MAX_JSON_BYTES} bytes. Received: {path}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"Expected a JSON object. Received: {path}")
    return values


def read_facts(
    path: Path, layout: str, classes: int | None, channels: int | None
) -> dict[str, Any]:
    """Read what lies beside a checkpoint.

    Args:
        path: The checkpoint file.
        layout: The layout that its arrays were found in.
        classes: Number of classes of its head, or None.
        channels: Number of image channels, or None.

    Returns:
        Fields of `sources.Checkpoint`, as far as the files tell.

    Raises:
        CheckpointError: If the files describe no CvT, or values are out of range.
    """
    json_config = _read_beside(path.with_name("config.json"), layout)
    names = read_class_names(json_config, classes, path)
    if DESCRIPTION_KEY in json_config:
        description = _own_description(json_config, classes, channels)
        return {
            "description": description.replace(class_names=names),
            "config": description.config,
            "eval_transform": description.eval_transform,
            "activation": description.config.activation,
            "class_names": names,
        }
    if not layout.startswith("transformers"):
        return {}
    facts = {"activation": json_config.get("activation"), "class_names": names}
    facts["problem_type"] = _problem_type(json_config)
    processor = _read_beside(path.with_name(FILE), layout)
    facts["eval_transform"] = read_transform(json_config, processor)
    if facts["activation"] is None:
        facts["activation"] = "gelu"
        logger.warning(
            "%s is in transformers' layout, whose models compute exact GELU. It is "
            "loaded with activation='gelu'. For a copy of the published weights pass "
            "activation='quick_gelu'.",
            path,
        )
    if "embed_dim" in json_config:
        facts["config"] = CvTConfig.from_transformers(json_config)
    return facts


def _problem_type(json_config):
    found = json_config.get("problem_type")
    if found not in (None, *HEADS):
        raise CheckpointError(
            f"Expected in config.json a problem_type among {tuple(HEADS)}. "
            f"Received: {str(found)[:100]}"
        )
    return found


def _read_beside(path, layout):
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except ValueError:
        # An official checkpoint may lie beside the files of any other program.
        if layout != "official":
            raise
        return {}


def read_class_names(
    json_config: Mapping[str, Any], classes: int | None, path: str | Path
) -> tuple[str, ...] | None:
    """Return the class names of a `config.json`, or None.

    Args:
        json_config: Its content.
        classes: Number of classes of the checkpoint's head, or None without a head.
        path: What a log message calls the checkpoint.
    """
    id2label = json_config.get("id2label")
    if not isinstance(id2label, Mapping) or classes is None:
        return None
    if len(id2label) != classes:
        logger.warning(
            "%s has %d classes, but its config.json names %d. The class names are "
            "left out.",
            path,
            classes,
            len(id2label),
        )
        return None
    return tuple(str(id2label.get(str(i)) or f"class {i}") for i in range(classes))


def _own_description(json_config, classes, channels):
    values = json_config[DESCRIPTION_KEY]
    try:
        if "input" not in values:  # as version 0.1.0 wrote it
            linear = values["classifier_activation"] == "linear"
            values = {
                **{name: values[name] for name in ("name", "config")},
                "input": {
                    **{n: values[n] for n in ("include_preprocessing", _TRANSFORM_KEY)},
                    "image_size": [None, None],
                    "channels": channels,
                },
                "outputs": "logits" if linear else "probabilities",
                "activation": values["classifier_activation"],
            }
        description = ModelDescription.from_dict(
            {**values, "classes": classes or 0, "class_names": None}
        )
        known = description.activation in (*ACTIVATIONS, None)
        if not known or _ODD.search(description.name) or len(description.name) > 100:
            raise ValueError(f"activation or name: {description}")
        # Or a few bytes could ask for a network of any size.
        if description.config is None or channels not in (None, description.channels):
            raise ValueError(f"no network, or channels={description.channels}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            "Expected in config.json a model of keras_cvt that fits its weights, with "
            f"a plain name and an activation of {ACTIVATIONS}. "
            f"Received: {str(error)[:300]}"
        ) from error
    _check_image_size(description.eval_transform)
    return description


def read_transform(
    json_config: Mapping[str, Any], processor: Mapping[str, Any]
) -> EvalTransform | None:
    """Return how images are made for a model in transformers' layout, if it is said.

    `preprocessor_config.json` says it best, then what version 0.1.0 added to
    `config.json`, then the `image_size` there.

    Raises:
        CheckpointError: If a size or a share is out of range.
    """
    try:
        transform = from_transformers(processor)
        if transform is None and _TRANSFORM_KEY in json_config:
            transform = EvalTransform(**json_config[_TRANSFORM_KEY])
        if transform is None and isinstance(json_config.get("image_size"), int):
            transform = _convnext(json_config["image_size"], None)
    except (TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"Expected sizes of images in {FILE} and config.json: {str(error)[:300]}"
        ) from error
    if transform is None:
        return None
    _check_image_size(transform)
    trained = json_config.get("image_size")
    if isinstance(trained, int) and trained not in transform.image_size:
        logger.warning(
            "%s makes images of %d x %d pixels, but config.json says image_size=%d. "
            "They are made as the former says. Set `model.eval_transform` if the "
            "latter is right.",
            FILE,
            *transform.image_size,
            trained,
        )
    return transform


def _check_image_size(transform):
    if max(transform.image_size) > MAX_IMAGE_SIZE:
        raise CheckpointError(
            f"Expected images of at most {MAX_IMAGE_SIZE} pixels a side. "
            f"Received: {transform}"
        )


def to_transformers(transform: EvalTransform) -> dict[str, Any] | None:
    """Return the content of `preprocessor_config.json`, with ImageNet's statistics.

    None if transformers has no such transform.
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

    None if it is not one of ours, such as a resize without a fixed result.

    Raises:
        ValueError: If a size or a share is out of range.
    """
    transform = _transform(processor)
    if transform is not None:
        _warn_of_statistics(processor)
    return transform


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
    ours = {
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "do_normalize": True,
        "do_rescale": True,
        "resample": 3,
    }
    for name, value in ours.items():
        theirs = processor.get(name)
        if theirs not in (None, value):
            logger.warning(
                "%s says %s=%s, but images are made with %s here. Prepare them "
                "yourself for a model with include_preprocessing=False.",
                FILE,
                name,
                theirs,
                value,
            )
