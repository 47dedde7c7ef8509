"""`EvalTransform`: its JSON form and invalid values."""

import json

import pytest

from keras_cvt.preprocessing import EvalTransform

CROP_224 = EvalTransform((224, 224), 0.875)
SQUASH_384 = EvalTransform((384, 384), None)


@pytest.mark.parametrize("transform", [CROP_224, SQUASH_384])
def test_a_transform_survives_json(transform):
    loaded = EvalTransform.from_dict(json.loads(json.dumps(transform.to_dict())))
    assert loaded == transform
    assert hash(loaded) == hash(transform)


@pytest.mark.parametrize(
    ("image_size", "crop_ratio"),
    [
        (224, 0.875),
        ((224,), 0.875),
        ((224, 0), 0.875),
        ((224, 224.0), 0.875),
        ((224, 224), 0),
        ((224, 224), 1.01),
        ((224, 224), float("nan")),
        ((224, 224), True),
        ((224, 224), "0.875"),
    ],
)
def test_invalid_sizes_and_ratios_are_refused(image_size, crop_ratio):
    with pytest.raises(ValueError, match="Received: "):
        EvalTransform(image_size, crop_ratio)


@pytest.mark.parametrize(
    "fields", [{"image_size": [224, 224]}, {**CROP_224.to_dict(), "mean": 0.5}]
)
def test_from_dict_refuses_missing_and_unknown_fields(fields):
    with pytest.raises(ValueError, match="Received: "):
        EvalTransform.from_dict(fields)
