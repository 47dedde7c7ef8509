"""transformers' `preprocessor_config.json` is written and read."""

import keras
import numpy as np
import pytest

import keras_cvt
from keras_cvt import StageConfig
from keras_cvt.checkpoints import save_checkpoint, transformers_format
from keras_cvt.layers.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from keras_cvt.preprocessing import EvalTransform

CONVNEXT = {"image_processor_type": "ConvNextImageProcessor", "resample": 3}
CROPPED = EvalTransform((224, 224), 0.875)

# Name -> (content of the file, the transform, the class of transformers for it).
DESCRIBED = {
    "a crop at 224": (
        {**CONVNEXT, "size": {"shortest_edge": 224}, "crop_pct": 0.875},
        CROPPED,
        "ConvNextImageProcessorPil",
    ),
    "another crop at 96": (
        {**CONVNEXT, "size": {"shortest_edge": 96}, "crop_pct": 0.95},
        EvalTransform((96, 96), 0.95),
        "ConvNextImageProcessorPil",
    ),
    "no crop at 384": (
        {**CONVNEXT, "size": {"shortest_edge": 384}, "crop_pct": 0.875},
        EvalTransform((384, 384), None),
        "ConvNextImageProcessorPil",
    ),
    "a height and a width": (
        {"size": {"height": 64, "width": 96}, "resample": 3},
        EvalTransform((64, 96), None),
        "ViTImageProcessorPil",
    ),
    "a centre crop": (
        {
            "size": {"shortest_edge": 101},
            "do_center_crop": True,
            "crop_size": {"height": 97, "width": 97},
            "resample": 3,
        },
        EvalTransform((97, 97), 97 / 101),
        "CLIPImageProcessorPil",
    ),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_images_equal_those_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    values, transform, kind = DESCRIBED[name]
    values = {**values, "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    assert transformers_format.from_transformers(values) == transform
    image = np.random.default_rng(0).integers(0, 256, (300, 470, 3), "uint8")
    processor = getattr(transformers, kind)(**values)
    theirs = np.asarray(processor(image)["pixel_values"])[0].transpose(1, 2, 0)
    theirs = 255 * (theirs * IMAGENET_STD + IMAGENET_MEAN)
    ours = keras_cvt.preprocess_input(image, transform)[0]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1.01)


@pytest.mark.parametrize(
    ("values", "transform"),
    [
        # The form of the published repositories, from older releases of transformers.
        (
            {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 224},
            CROPPED,
        ),
        ({"size": 384, "crop_pct": None}, EvalTransform((384, 384), None)),
        ({"size": 64}, EvalTransform((64, 64), None)),
        ({"size": [64, 96]}, EvalTransform((64, 96), None)),
        # Transforms that keras_cvt does not have.
        ({}, None),
        ({"size": {"shortest_edge": 64}}, None),
        ({"size": {"longest_edge": 64}}, None),
        ({"size": 224, "do_resize": False}, None),
        ({**CONVNEXT, "size": {"height": 64, "width": 64}}, None),
        (
            {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 96},
            None,
        ),
    ],
)
def test_other_and_older_forms_are_read(values, transform):
    assert transformers_format.from_transformers(values) == transform


@pytest.mark.parametrize(
    "transform",
    [CROPPED, EvalTransform((384, 384), None), EvalTransform((64, 96), None)],
)
def test_a_written_transform_is_read_again(transform):
    written = transformers_format.to_transformers(transform)
    assert transformers_format.from_transformers(written) == transform


@pytest.mark.parametrize(
    "values",
    [{"size": 0}, {"size": -1}, {**CONVNEXT, "size": 224, "crop_pct": 1.5}],
)
def test_an_invalid_size_or_crop_raises_an_error(values):
    with pytest.raises(ValueError, match="Received: "):
        transformers_format.from_transformers(values)


def test_another_normalisation_is_logged(caplog):
    transformers_format.from_transformers(
        {"size": 64, "image_mean": list(IMAGENET_MEAN)}
    )
    assert not caplog.records
    transformers_format.from_transformers({"size": 64, "image_mean": [0.5, 0.5, 0.5]})
    assert "include_preprocessing=False" in caplog.text


@pytest.mark.parametrize(
    "values", [{"do_normalize": False}, {"do_rescale": False}, {"resample": 2}]
)
def test_other_steps_are_logged(caplog, values):
    transformers_format.from_transformers({"size": 64, **values})
    assert next(iter(values)) in caplog.text


# Name -> (embed_dim, depth, cls_token) of the stages, other fields, whether
# transformers runs the network.
NETWORKS = {
    "as published": (((8, 1, False), (16, 2, False), (16, 3, True)), {}, True),
    "deep enough": (((8, 3, False), (16, 2, True)), {}, True),
    "one stage": (((8, 1, True),), {}, True),
    "class tokens as wide as the last": (((8, 1, True), (8, 2, True)), {}, True),
    "no bias, a whole ratio": (
        ((8, 1, True),),
        {"qkv_bias": False, "mlp_ratio": 3},
        True,
    ),
    "stage 1 of one block": (((8, 1, False), (16, 1, True)), {}, False),
    "stage 2 of two blocks": (((8, 1, False), (8, 2, False), (8, 2, True)), {}, False),
    "no class token": (((8, 1, False), (16, 2, False)), {}, False),
    "a narrow class token": (((8, 1, True), (16, 2, True)), {}, False),
    "average pooling": (((8, 1, True),), {"projection": "avg"}, False),
    "linear": (((8, 1, True),), {"projection": "linear"}, False),
    "heads of another width": (((8, 1, True),), {"head_dim": 4}, False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_transformers_can_run_is_known(tmp_path, name):
    """What is saved for it gives the same logits there; all else is refused."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    stages, fields, runs = NETWORKS[name]
    config = keras_cvt.CvTConfig(
        tuple(
            StageConfig(width, depth, 1, 3, 2, 1, cls_token=token, **fields)
            for width, depth, token in stages
        ),
        activation="gelu",
    )
    assert (transformers_format.obstacles(config) == "") == runs
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(
        config, classes=3, classifier_activation=None, include_preprocessing=False
    )
    if not runs:
        with pytest.raises(ValueError, match="transformers"):
            save_checkpoint(model, tmp_path / "folder", layout="transformers")
        return
    save_checkpoint(model, tmp_path / "folder", layout="transformers")
    reference = transformers.CvtForImageClassification.from_pretrained(
        tmp_path / "folder"
    ).eval()
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3), dtype="float32")
    with torch.inference_mode():
        logits = reference(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).logits
    ours = keras.ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(ours, logits.numpy(), rtol=0, atol=2e-5)


def test_transformers_cannot_even_build_what_is_refused_for_its_depth():
    transformers = pytest.importorskip("transformers")
    with pytest.raises(IndexError):
        transformers.CvtForImageClassification(
            transformers.CvtConfig(embed_dim=[8, 64, 64], depth=[1, 1, 3])
        )
