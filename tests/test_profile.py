"""The arithmetic agrees with the built networks and with the paper."""

import golden
import numpy as np
import pytest

from keras_cvt import config, profile

# Paper, Tables 3 and 4: GMACs at 224 and 384.
PAPER_GMACS = {
    "CVT_13": (4.53, 16.3),
    "CVT_21": (7.13, 24.9),
    "CVT_W24": (60.86, 193.2),
}


@pytest.mark.parametrize("name", PAPER_GMACS)
def test_macs_are_the_papers_within_one_percent(name):
    for size, paper in zip((224, 384), PAPER_GMACS[name], strict=True):
        gmacs = profile.macs(getattr(config, name), size, size) / 1e9
        assert gmacs == pytest.approx(paper, rel=0.01)


def test_attention_macs_are_two_products_of_queries_and_keys():
    """CvT-13 at 224: maps of 56, 28 and 14; keys on half of each; a class token."""
    expected = [
        1 * 2 * 56**2 * 28**2 * 64,
        2 * 2 * 28**2 * 14**2 * 192,
        10 * 2 * (14**2 + 1) * (7**2 + 1) * 384,
    ]
    parts = profile.profile(config.CVT_13)
    assert [part.attention_macs for part in parts] == [*expected, 0, 0]


def test_cvt_w24_has_the_papers_parameters():
    parts = profile.profile(config.CVT_W24)
    assert sum(part.parameters for part in parts) == 277_196_392
    assert sum(part.statistics for part in parts) == 134_400


@pytest.mark.parametrize("name", sorted(p.stem for p in golden.FOLDER.glob("tiny_*")))
def test_parameters_and_shapes_are_those_of_the_built_network(name):
    _, meta = golden.load(name)
    model = golden.model(meta)
    _, height, width, channels = meta["input_shape_nhwc"]
    parts = profile.profile(
        golden.config(meta), height, width, meta["num_classes"], channels
    )
    for part in parts:
        layer = model.get_layer(part.name)
        count = sum(int(np.prod(v.shape)) for v in layer.trainable_variables)
        assert part.parameters == count, part.name
    for part, stage in zip(parts, model.stages, strict=False):
        shape = stage.compute_output_shape((1, height, width, channels))
        map_shape = shape[0] if stage.config.cls_token else shape
        assert part.output == map_shape[1:]
        channels, height, width = map_shape[-1], *map_shape[1:3]


def test_an_image_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="too small"):
        profile.macs(config.CVT_13, 2, 2)
