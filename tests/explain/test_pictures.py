"""`overlay`, `to_photo` and where tokens lie."""

import numpy as np
import pytest
from explain.small import network
from PIL import Image

from keras_cvt import StageConfig, preprocess_input
from keras_cvt.explain import geometry, overlay, to_photo
from keras_cvt.layers import ConvProjection
from keras_cvt.preprocessing import EvalTransform

TRANSFORMS = [
    EvalTransform((64, 64), 0.875),
    EvalTransform((64, 64), None),
    EvalTransform((48, 96), 0.75),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("size", [(90, 90), (120, 200), (201, 77)])
def test_a_map_lies_in_the_photo_where_its_image_came_from(transform, size):
    # A photo that shows its own coordinates.
    rows, columns = np.meshgrid(
        np.linspace(40, 200, size[0]), np.linspace(40, 200, size[1]), indexing="ij"
    )
    photo = np.stack([rows, columns, rows], axis=-1).astype("float32")
    image = preprocess_input(photo, transform)[0]
    for channel, expected in enumerate((rows, columns)):
        found = to_photo(image[..., channel], size, transform)
        assert found.shape == size
        known = ~np.isnan(found)
        # Half a pixel of the image. At borders, resampling repeats the last pixels.
        step = 160 / min(transform.image_size)
        assert np.abs(found - expected)[known].max() < step / 2
    kept = known.mean()
    if transform.crop_ratio is None:
        assert kept == 1
    else:
        height, width = transform.image_size
        assert kept < 1
        # The crop is centred, up to a pixel of the resized image.
        for axis, side in enumerate(size):
            inside = np.flatnonzero(known.any(axis=1 - axis))
            margins = inside[0], side - 1 - inside[-1]
            assert abs(margins[0] - margins[1]) <= 1 + side / transform.image_size[axis]
        shape = known.any(axis=1).sum() / known.any(axis=0).sum()
        assert shape == pytest.approx(height / width, rel=0.06)


def field(stages, token):
    """Return the first and last pixel that a token sees, by the strides."""
    low = high = token
    for stage in reversed(stages):
        low = low * stage.patch_stride - stage.patch_padding
        high = high * stage.patch_stride - stage.patch_padding + stage.patch_size - 1
    return low, high


@pytest.mark.parametrize(
    "stages",
    [
        (StageConfig(8, 1, 1, 7, 4, 2),),
        (StageConfig(8, 1, 1, 7, 4, 2), StageConfig(8, 1, 1, 3, 2, 1)),
        (StageConfig(8, 1, 1, 4, 4, 0), StageConfig(8, 1, 1, 5, 3, 1)),
    ],
)
def test_a_token_lies_in_the_middle_of_what_it_sees(stages):
    distance, first = geometry.centers(stages)
    for token in (0, 5):
        assert first + distance * token == sum(field(stages, token)) / 2


def test_the_published_networks_tokens_are_16_pixels_apart():
    stages = (
        StageConfig(64, 1, 1, 7, 4, 2),
        StageConfig(192, 1, 3, 3, 2, 1),
        StageConfig(384, 1, 6, 3, 2, 1),
    )
    assert geometry.centers(stages) == (16, 1)
    maps = np.zeros((1, 14, 14), "float32")
    maps[0, 3, 5] = 1
    enlarged = geometry.upsample(maps, stages, 224, 224)[0]
    assert np.unravel_index(enlarged.argmax(), (224, 224)) == (49, 81)
    np.testing.assert_allclose(enlarged[49, 81], 1)


@pytest.mark.parametrize(
    ("projection", "size", "expected"),
    [
        # Keys at 0, 2 and 4.
        (
            ConvProjection("dw_bn", 3, 2, 1),
            5,
            [[2, 1, 0, 0, 0], [0, 1, 2, 1, 0], [0, 0, 0, 1, 2]],
        ),
        # Keys at 0.5 and 2.5.
        (ConvProjection("avg", 2, 2, 0), 4, [[4, 3, 1, 0], [0, 1, 3, 4]]),
        # Keys at 2 and 7, of which the second is past the last position.
        (ConvProjection("avg", 5, 5, 0), 6, [[5, 5, 5, 4, 3, 2], [0, 0, 0, 1, 2, 3]]),
        (ConvProjection("linear", 3, 2, 1), 2, [[1, 0], [0, 1]]),
    ],
)
def test_a_key_stands_for_the_positions_around_its_middle(projection, size, expected):
    shares = geometry.key_shares(projection, size)
    expected = np.array(expected) / np.sum(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected, atol=1e-6)


def test_every_key_stands_for_a_position():
    for kernel, stride, padding in np.ndindex(5, 4, 4):
        options = (kernel + 1, stride + 1, padding)
        kinds = ("dw_bn", "avg") if 2 * padding <= kernel + 1 else ("dw_bn",)
        for kind in kinds:
            shares = geometry.key_shares(ConvProjection(kind, *options), 7)
            np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)


def test_heat_is_drawn_where_it_is_and_the_rest_stays():
    photo = np.full((60, 80, 3), 100, "uint8")
    heat = np.zeros((60, 80))
    heat[10:20, 30:40] = 2
    drawn = overlay(photo, heat, opacity=1.0)
    assert (drawn.dtype, drawn.shape) == ("uint8", (60, 80, 3))
    hot = np.zeros((60, 80), bool)
    hot[10:20, 30:40] = True
    assert (drawn[~hot] == 100).all()
    assert (drawn[hot] == (255, 245, 120)).all()
    half = overlay(photo, heat, opacity=1.0, maximum=4)
    assert (half[hot] == (160, 65, 90)).all()  # half of the colour over the photo
    assert (overlay(photo, 0 * heat) == photo).all()


def test_a_coarse_map_covers_the_picture(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (60, 40), (10, 20, 30)).save(path)
    heat = np.array([[0.0, 1.0]])
    for picture in (path, Image.open(path), np.asarray(Image.open(path))):
        drawn = overlay(picture, heat)
        assert drawn.shape == (40, 60, 3)
        assert (drawn[:, 0] == (10, 20, 30)).all()
        assert (drawn[:, -1] != (10, 20, 30)).any()
    assert overlay(np.zeros((5, 6, 1)), heat).shape == (5, 6, 3)


def test_what_was_cropped_away_is_grey_and_dark():
    model = network(input_shape=(64, 64, 3))
    photo = np.full((64, 128, 3), (90, 60, 30), "uint8")
    drawn = overlay(photo, np.zeros((64, 64)), model)
    assert (drawn[0, 0] == 24).all()
    assert (drawn[32, 64] == (90, 60, 30)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heat_map": np.zeros((1, 4, 4))}, "take one of the batch"),
        ({"heat_map": np.zeros((0, 4))}, r"heat map \(H, W\)"),
        ({"heat_map": np.full((4, 4), -1.0)}, "at least 0"),
        ({"heat_map": np.full((4, 4), np.inf)}, "finite"),
        ({"heat_map": np.full((4, 4), np.nan)}, "only NaN"),
        ({"image": np.zeros((2, 4, 4, 3))}, r"one picture \(H, W, 3\)"),
        ({"image": np.zeros((4, 4, 4))}, r"shape=\(4, 4, 4\)"),
        ({"opacity": 0}, r"opacity in \(0, 1\]"),
        ({"maximum": 0}, "maximum above 0"),
    ],
)
def test_bad_pictures_and_maps_are_refused(arguments, message):
    good = {"image": np.zeros((4, 4, 3), "uint8"), "heat_map": np.zeros((4, 4))}
    with pytest.raises(ValueError, match=message):
        overlay(**{**good, **arguments})


def test_maps_that_are_in_the_photo_already_are_drawn_as_they_are():
    transform = EvalTransform((16, 16), 0.875)
    heat = to_photo(np.ones((16, 16)), (20, 40), transform)
    photo = np.full((20, 40, 3), 200, "uint8")
    drawn = overlay(photo, heat)
    assert (drawn[0, 0] == 80).all()
    assert (drawn[10, 20] != 200).any()
    for call in (
        lambda: overlay(photo[:10], heat),
        lambda: overlay(photo, heat, transform),
        lambda: to_photo(heat, (20, 40), transform),
    ):
        with pytest.raises(ValueError, match=r"NaN in a map of shape \(20, 40\)"):
            call()


def test_bad_files_and_transforms_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        overlay(tmp_path / "none.jpg", np.zeros((4, 4)))
    with pytest.raises(TypeError, match="model_or_weights"):
        to_photo(np.zeros((4, 4)), (8, 8), 3)
    with pytest.raises(ValueError, match="photo_size"):
        to_photo(np.zeros((4, 4)), (0, 8), TRANSFORMS[0])
