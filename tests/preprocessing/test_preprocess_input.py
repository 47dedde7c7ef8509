"""Preprocessing compared with PIL, on photos of scikit-image."""

import linecache
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_cvt
from keras_cvt.preprocessing import EvalTransform, preprocess_input

tf = pytest.importorskip("tensorflow")
skimage_data = pytest.importorskip("skimage.data")

CROP_224 = EvalTransform((224, 224), 0.875)
SQUASH_384 = EvalTransform((384, 384), None)
CROP_ODD = EvalTransform((97, 161), 0.8)
TRANSFORMS = pytest.mark.parametrize(
    "transform", [CROP_224, SQUASH_384, CROP_ODD], ids=["crop", "squash", "odd"]
)
BICUBIC = Image.Resampling.BICUBIC


def photo(name, box=None, size=None):
    """Return a photo in RGB, cut to `box`, then scaled to `size` (width, height)."""
    image = Image.open(Path(skimage_data.__file__).parent / name).convert("RGB")
    image = image.crop(box) if box else image
    return image.resize(size, Image.Resampling.LANCZOS) if size else image


def pil_reference(image, transform):
    """Resize and crop the centre like the official evaluation."""
    height, width = transform.image_size
    if transform.crop_ratio is None:
        resized = image.convert("RGB").resize((width, height), BICUBIC)
        return np.asarray(resized, "float32")
    w, h = image.size
    target_h, target_w = (int(size / transform.crop_ratio) for size in (height, width))
    if target_h / h >= target_w / w:
        new_h, new_w = target_h, int(target_h * w / h)
    else:
        new_h, new_w = int(target_w * h / w), target_w
    resized = image.convert("RGB").resize((new_w, new_h), BICUBIC)
    top, left = round((new_h - height) / 2), round((new_w - width) / 2)
    box = (left, top, left + width, top + height)
    return np.asarray(resized.crop(box), "float32")


# Images of different sizes and content.
PHOTOS = {
    "large": lambda: photo("astronaut.png"),
    "landscape": lambda: photo("coffee.png"),
    "odd landscape": lambda: photo("rocket.jpg"),
    "sharp": lambda: photo("motorcycle_left.png"),
    "portrait": lambda: photo("coffee.png", box=(201, 0, 450, 399)),
    "portrait 3:1": lambda: photo("rocket.jpg", box=(250, 0, 392, 427)),
    "small": lambda: photo("chelsea.png", size=(91, 61)),
    "very wide": lambda: photo("motorcycle_left.png", box=(0, 200, 741, 262)),
    "very tall": lambda: photo("motorcycle_left.png", box=(200, 0, 243, 500)),
    "224 already": lambda: photo("astronaut.png", box=(100, 0, 324, 224)),
    "stripes": lambda: Image.fromarray(
        np.tile(np.uint8([[[0] * 3, [255] * 3, [255, 0, 0]]]), (131, 50, 1))
    ),
}
EACH_PHOTO = pytest.mark.parametrize("name", PHOTOS)


def max_difference(a, b):
    assert a.shape == b.shape
    return np.abs(np.asarray(a, "float64") - np.asarray(b, "float64")).max()


# Fidelity


@TRANSFORMS
@EACH_PHOTO
def test_pil_images_and_uint8_arrays_are_exactly_pil(name, transform):
    image = PHOTOS[name]()
    reference = pil_reference(image, transform)
    for images in (image, np.asarray(image)):
        result = preprocess_input(images, transform)
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result, reference[None])


@TRANSFORMS
@EACH_PHOTO
def test_uint8_tensors_are_within_two_levels_of_pil(name, transform):
    image = PHOTOS[name]()
    result = preprocess_input(tf.constant(np.asarray(image)), transform)
    assert max_difference(result, pil_reference(image, transform)) <= 2


@TRANSFORMS
@EACH_PHOTO
def test_float_images_are_within_two_levels_of_pil(name, transform):
    image = PHOTOS[name]()
    pixels = np.asarray(image, "float32")
    reference = pil_reference(image, transform)
    array = preprocess_input(pixels, transform)[0]
    tensor = preprocess_input(tf.constant(pixels), transform)
    assert max_difference(array, reference) <= 2
    assert max_difference(tensor, reference) <= 2
    # Without PIL's rounding, only float32 itself is between the two.
    assert max_difference(array, tensor) <= 0.05


@TRANSFORMS
def test_a_jpeg_decoded_by_tensorflow_is_within_two_levels_of_pil(transform, tmp_path):
    path = tmp_path / "photo.jpg"
    photo("coffee.png").save(path, quality=90)
    image = tf.io.decode_jpeg(
        tf.io.read_file(str(path)), channels=3, dct_method="INTEGER_ACCURATE"
    )
    reference = preprocess_input(path, transform)[0]
    assert max_difference(preprocess_input(image, transform), reference) <= 2


def test_the_224_transform_resizes_the_short_side_to_256():
    # A ramp along the width: one level a pixel of the source.
    ramp = np.tile(np.arange(256, dtype="uint8")[None, :, None], (256, 1, 3))
    result = preprocess_input(ramp, CROP_224)[0]
    np.testing.assert_array_equal(result, ramp[16:240, 16:240])


def test_the_384_transform_keeps_the_borders():
    image = np.zeros((384, 384, 3), "uint8")
    image[0], image[:, -1] = 255, 255
    np.testing.assert_array_equal(preprocess_input(image, SQUASH_384)[0], image)


@pytest.mark.parametrize(("excess", "offset"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_an_odd_crop_rounds_its_offset_to_even_as_torchvision(excess, offset):
    columns = np.arange(100 + excess, dtype="uint8")[None, :, None]
    image = np.tile(columns, (100, 1, 3))
    transform = EvalTransform((100, 100), 1.0)
    for images in (image, tf.constant(image)):
        result = np.asarray(preprocess_input(images, transform))
        assert result[..., 0, 0, 0] == offset


def test_overshoot_of_bicubic_stays_in_0_to_255():
    stripes = np.asarray(PHOTOS["stripes"](), "float32")
    for images in (stripes, tf.constant(stripes)):
        result = np.asarray(preprocess_input(images, SQUASH_384))
        assert result.min() == 0
        assert result.max() == 255


# Types of images


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I", "F"])
def test_pil_images_of_any_mode_become_rgb_as_pil_converts(mode):
    image = photo("chelsea.png", size=(90, 60)).convert(mode)
    result = preprocess_input(image, CROP_224)
    reference = pil_reference(image.convert("RGB"), CROP_224)
    np.testing.assert_array_equal(result[0], reference)


def test_12_bits_in_a_tiff_are_refused(tmp_path):
    """Its upper bytes would be almost black."""
    values = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype("uint16")
    path = tmp_path / "camera.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(ValueError, match="16 bits in 0-65535.*at most 4095"):
        preprocess_input(path, EvalTransform((32, 32), None))
    Image.fromarray(values * 16).save(path)
    image = preprocess_input(path, EvalTransform((32, 32), None))
    assert image.min() < 10 and image.max() > 245


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_of_16_bits_the_upper_8_are_taken(mode):
    # Pillow reads colour images of 16 bits so, but clips grey values at 255.
    grey = photo("chelsea.png", size=(90, 60)).convert("L")
    byte_order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    values = np.asarray(grey).astype(byte_order) * 256 + 77
    image = Image.frombytes(mode, grey.size, values.astype(byte_order).tobytes())
    result = preprocess_input(image, CROP_224)
    np.testing.assert_array_equal(result[0], pil_reference(grey, CROP_224))


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        *(("I", pair) for pair in [(0, 256), (-1, 5), (0, 65535)]),
        *(("F", pair) for pair in [(0, 256), (-1, 5), (0, 1), (0, np.nan)]),
    ],
)
def test_grey_values_of_32_bits_that_are_not_pixels_are_refused(mode, values):
    array = np.tile(np.array(values), (9, 5)).astype({"I": "int32", "F": "f4"}[mode])
    with pytest.raises(ValueError, match="32 bits in 0-255(?s:.*)Received: values"):
        preprocess_input(Image.fromarray(array), CROP_224)


def test_exif_orientation_is_not_applied(tmp_path):
    image = photo("coffee.png", size=(90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    result = preprocess_input(tmp_path / "turned.png", CROP_224)
    np.testing.assert_array_equal(result[0], pil_reference(image, CROP_224))


def test_a_list_of_paths_images_and_arrays_is_a_batch_in_order(tmp_path):
    cat, coffee, rocket = (
        photo(name, size=size)
        for name, size in [
            ("chelsea.png", (90, 60)),
            ("coffee.png", (61, 75)),
            ("rocket.jpg", (80, 80)),
        ]
    )
    cat.save(tmp_path / "cat.png")
    images = [
        str(tmp_path / "cat.png"),
        coffee,
        np.asarray(rocket),
        tmp_path / "cat.png",
        tf.constant(np.asarray(coffee)),
    ]
    expected = [pil_reference(i, CROP_224) for i in (cat, coffee, rocket, cat, coffee)]
    for batch in (images, tuple(images)):
        result = preprocess_input(batch, CROP_224)
        np.testing.assert_array_equal(result, np.stack(expected))


def test_a_batch_is_its_images_one_by_one():
    batch = np.stack([np.asarray(photo("coffee.png", size=(90, 70)))] * 2)
    batch[1] = 255 - batch[1]
    for images in (batch, batch.astype("float32")):
        result = preprocess_input(images, CROP_224)
        single = [preprocess_input(image, CROP_224)[0] for image in images]
        np.testing.assert_array_equal(result, np.stack(single))


def test_integers_of_any_width_are_pixels():
    image = np.asarray(photo("coffee.png", size=(90, 70)))
    expected = preprocess_input(image, CROP_224)
    for dtype in ("uint16", "int32", "int64"):
        result = preprocess_input(image.astype(dtype), CROP_224)
        np.testing.assert_array_equal(result, expected)
        tensor = preprocess_input(tf.constant(image.astype(dtype)), CROP_224)
        assert max_difference(tensor, expected[0]) <= 2


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_channels_are_resized_independently(channels):
    image = np.asarray(photo("coffee.png", size=(90, 70)))
    stacked = np.concatenate([image, image[..., ::-1]], axis=-1)[..., :channels]
    for cast in ("uint8", "float32"):
        result = preprocess_input(stacked.astype(cast), CROP_224)
        assert result.shape == (1, 224, 224, channels)
        for channel in range(channels):
            single = preprocess_input(
                stacked[..., channel : channel + 1].astype(cast), CROP_224
            )
            np.testing.assert_array_equal(result[..., channel], single[..., 0])


def test_torch_jax_and_keras_tensors_give_the_same_as_numpy():
    jnp = pytest.importorskip("jax.numpy")
    torch = pytest.importorskip("torch")
    image = np.asarray(photo("coffee.png", size=(90, 70)), "float32")
    expected = preprocess_input(image, CROP_224)
    for tensor in (
        torch.tensor(image, requires_grad=True),
        torch.tensor(image, dtype=torch.bfloat16),
        jnp.asarray(image),
        jnp.asarray(image, "bfloat16"),
        keras.Variable(image),
    ):
        result = preprocess_input(tensor, CROP_224)
        assert isinstance(result, np.ndarray)
        # Integers up to 255 are exact in bfloat16.
        np.testing.assert_array_equal(result, expected)


def test_read_only_arrays_and_flipped_views_are_images():
    image = np.asarray(photo("coffee.png", size=(90, 70)))
    assert not image.flags.writeable
    result = preprocess_input(image[:, ::-1, ::-1], CROP_224)
    expected = preprocess_input(image[:, ::-1, ::-1].copy(), CROP_224)
    np.testing.assert_array_equal(result, expected)


# TensorFlow tensors and tf.data


@TRANSFORMS
def test_tf_data_map_gives_what_the_eager_call_gives(transform):
    images = [
        np.asarray(photo("coffee.png", size=size)) for size in [(90, 70), (81, 300)]
    ]
    spec = tf.TensorSpec((None, None, 3), "uint8")
    dataset = tf.data.Dataset.from_generator(lambda: images, output_signature=spec)
    dataset = dataset.map(lambda image: preprocess_input(image, transform))
    assert dataset.element_spec.shape == (*transform.image_size, 3)
    assert dataset.element_spec.dtype == tf.float32
    for image, result in zip(images, dataset, strict=True):
        eager = preprocess_input(tf.constant(image), transform)
        np.testing.assert_array_equal(result, eager)


@TRANSFORMS
def test_a_batch_inside_map_stays_a_batch(transform):
    image = np.asarray(photo("coffee.png", size=(90, 70)))
    dataset = tf.data.Dataset.from_tensors(np.stack([image, 255 - image]))
    (result,) = dataset.map(lambda batch: preprocess_input(batch, transform))
    for row, single in zip(result, (image, 255 - image), strict=True):
        expected = preprocess_input(tf.constant(single), transform)
        np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("rank", [3, 4])
def test_static_height_and_width_are_known_when_the_input_size_is_not(rank):
    spec = tf.TensorSpec([None] * rank, "float32")
    traced = tf.function(
        lambda x: preprocess_input(x, CROP_224), input_signature=[spec]
    )
    (output,) = traced.get_concrete_function().outputs
    assert output.shape.as_list() == [None, 224, 224, None][4 - rank :]


def test_an_eager_tensor_of_rank_3_keeps_its_rank_as_inside_map():
    image = tf.zeros((50, 60, 3), "uint8")
    assert preprocess_input(image, CROP_224).shape == (224, 224, 3)
    assert preprocess_input(image[None], CROP_224).shape == (1, 224, 224, 3)


# Transforms of models


class ModelWithTransform(keras.Model):
    @property
    def eval_transform(self):
        return SQUASH_384


def test_a_model_is_asked_for_its_transform():
    image = np.asarray(photo("coffee.png", size=(90, 70)))
    result = preprocess_input(image, ModelWithTransform())
    np.testing.assert_array_equal(result, preprocess_input(image, SQUASH_384))


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_the_models_are_refused(channels):
    config = keras_cvt.CvTConfig((keras_cvt.StageConfig(8, 1, 1, 7, 4, 2),))
    model = keras_cvt.CvT(config)
    images = np.full((40, 40, channels), 100, "uint8")
    for given in (images, [images], keras.ops.convert_to_tensor(images)):
        with pytest.raises(ValueError, match=f"of 3 channels.*{channels} channels"):
            keras_cvt.preprocess_input(given, model)
    as_rgb = images[..., :1].repeat(3, -1)
    assert keras_cvt.preprocess_input(as_rgb, model).shape == (1, 224, 224, 3)


def test_channels_are_those_of_the_images_also_with_layers_in_front():
    config = keras_cvt.CvTConfig((keras_cvt.StageConfig(8, 1, 1, 7, 4, 2),))
    grey = keras.Input((None, None, 1))
    pair = [keras.Input((None, None, 3)) for _ in range(2)]
    for front, channels in (
        (keras.layers.Concatenate()([grey] * 3), 1),
        (keras.layers.Average()(pair), 3),
    ):
        model = keras_cvt.CvT(config, input_tensor=front)
        for given in (1, 3):
            images = np.full((40, 40, given), 100, "uint8")
            if given == channels:
                assert preprocess_input(images, model).shape[-1] == channels
                continue
            with pytest.raises(ValueError, match=f"of {channels} channels"):
                preprocess_input(images, model)


def test_a_model_without_a_transform_is_refused():
    with pytest.raises(
        TypeError, match=r"`EvalTransform`(?s:.*)Received: .*Sequential"
    ):
        preprocess_input(np.zeros((9, 9, 3), "uint8"), keras.Sequential())


# Warnings and errors


@pytest.mark.parametrize("convert", [np.asarray, tf.constant, lambda x: [x]])
@pytest.mark.parametrize(
    ("scale", "offset"), [(1 / 255, 0.0), (1 / 128, -1.0)], ids=["0-1", "centred"]
)
def test_floats_that_look_normalised_warn_at_the_callers_line(convert, scale, offset):
    image = np.asarray(photo("coffee.png", size=(90, 70)), "float32") * scale + offset
    with pytest.warns(UserWarning, match="normalised already") as record:
        preprocess_input(convert(image), CROP_224)
    line = linecache.getline(record[0].filename, record[0].lineno)
    assert line.strip() == "preprocess_input(convert(image), CROP_224)"


def test_floats_above_255_warn():
    with pytest.warns(UserWarning, match="clipped"):
        found = preprocess_input(np.full((9, 9, 3), 300.0), CROP_224)
    np.testing.assert_array_equal(found, 255)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "image",
    [np.zeros((9, 9, 3), "float32"), np.ones((9, 9, 3), "uint8")],
    ids=["black float", "dark uint8"],
)
def test_dark_images_do_not_warn(image):
    found = preprocess_input(image, CROP_224)
    np.testing.assert_array_equal(found, image.max())


def test_a_missing_file_is_reported_as_such(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        preprocess_input(tmp_path / "nowhere.jpg", CROP_224)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (
            Image.new("1", (70_000, 1)),
            r"expected an image of at most .* a side\. Received: 1 x 70000 pixels, in ",
        ),
        (
            Image.new("F", (4, 4), 3000.0),
            r"expected grey values of 32 bits .*\. Received: values from 3000 to 3000, "
            "in ",
        ),
    ],
    ids=["too long", "unknown range"],
)
def test_an_image_that_is_refused_is_one_sentence_with_its_path(tmp_path, image, said):
    path = tmp_path / "image.tif"
    image.save(path)
    expected = f"The file cannot be read as an image: {said}'{re.escape(str(path))}'$"
    with pytest.raises(ValueError, match=expected):
        preprocess_input(path, "imagenet")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_unreadable_file_is_named(suffix, tmp_path):
    whole = tmp_path / f"whole{suffix}"
    photo("coffee.png").save(whole)
    text, half = tmp_path / f"text{suffix}", tmp_path / f"half{suffix}"
    text.write_text("no image")
    half.write_bytes(whole.read_bytes()[:3000])
    for path in (text, half):
        with pytest.raises(ValueError, match=rf"Received: .*{path.name}"):
            preprocess_input([whole, path], CROP_224)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    photo("coffee.png").save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="decompression bomb.*bomb.png"):
        preprocess_input(tmp_path / "bomb.png", CROP_224)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no image"),
        (np.zeros((9, 9), "uint8"), "channel axis"),
        (np.zeros((9,), "uint8"), r"\(H, W, C\)"),
        (np.zeros((1, 1, 9, 9, 3), "uint8"), r"\(H, W, C\)"),
        (np.zeros((0, 9, 3), "uint8"), "no pixels"),
        (np.zeros((0, 9, 9, 3), "uint8"), "no pixels"),
        (np.zeros((3, 32, 32), "uint8"), "channels first"),
        (np.zeros((2, 3, 32, 32), "uint8"), "channels first"),
        (np.full((9, 9, 3), np.nan), "finite"),
        (np.full((9, 9, 3), np.inf), "finite"),
        (np.full((9, 9, 3), 256, "uint16"), "0-255"),
        (np.full((9, 9, 3), -1), "0-255"),
        (np.ones((9, 9, 3), bool), "integers or floats"),
        (np.full((9, 9, 3), "a.jpg"), "integers or floats"),
    ],
)
def test_arrays_that_are_not_images_are_refused(images, message):
    with pytest.raises(ValueError, match=f"(?s){message}.*Received: "):
        preprocess_input(images, CROP_224)
    # A TensorFlow tensor of the same content gets the same answer.
    if isinstance(images, np.ndarray) and images.dtype.kind != "U":
        with pytest.raises(ValueError, match=f"(?s){message}.*Received: "):
            preprocess_input(tf.constant(images), CROP_224)


@pytest.mark.parametrize(
    "images",
    [
        [np.zeros((9, 9, 3), "uint8"), np.zeros((9, 9, 1), "uint8")],
        [np.zeros((1, 9, 9, 3), "uint8")],
    ],
    ids=["channels differ", "a batch in a list"],
)
def test_a_list_that_is_not_a_batch_is_refused(images):
    with pytest.raises(ValueError, match="Received: "):
        preprocess_input(images, CROP_224)


@pytest.mark.parametrize(
    "images",
    [None, 3, [[1, 2], [3, 4]], b"a.jpg", {"image": 1}, object()],
    ids=["None", "number", "numbers", "bytes", "dict", "object"],
)
def test_other_types_are_refused(images):
    with pytest.raises(TypeError, match="Received: "):
        preprocess_input(images, CROP_224)


def test_a_path_tensor_is_refused_with_the_way_to_read_it():
    with pytest.raises(ValueError, match="INTEGER_ACCURATE(?s:.*)Received: "):
        preprocess_input(tf.constant("cat.jpg"), CROP_224)


def test_a_tensor_of_unknown_rank_is_refused_with_the_way_to_state_it():
    spec = tf.TensorSpec(None, "uint8")
    traced = tf.function(
        lambda x: preprocess_input(x, CROP_224), input_signature=[spec]
    )
    with pytest.raises(ValueError, match="ensure_shape"):
        traced.get_concrete_function()


@pytest.mark.parametrize(
    "images",
    [
        tf.data.Dataset.from_tensors(0),
        tf.ragged.constant([[1], [2, 3]]),
        keras.KerasTensor((None, 9, 9, 3)),
    ],
    ids=["dataset", "ragged", "symbolic"],
)
def test_other_objects_than_dense_tensors_are_refused(images):
    with pytest.raises(TypeError, match="Received: "):
        preprocess_input(images, CROP_224)


# Tags


@pytest.mark.parametrize(
    ("tag", "transform"),
    [
        ("imagenet", CROP_224),
        ("imagenet_384", SQUASH_384),
        ("cvtw24/imagenet", SQUASH_384),
    ],
)
def test_a_tag_selects_the_transform_of_its_weights(tag, transform):
    image = np.asarray(photo("coffee.png", size=(90, 70)))
    result = preprocess_input(image, tag)
    np.testing.assert_array_equal(result, preprocess_input(image, transform))


def test_the_error_for_an_unknown_tag_lists_the_known_ones():
    with pytest.raises(ValueError, match="imagenet_384"):
        preprocess_input(np.zeros((9, 9, 3), "uint8"), "imagenet_385")
