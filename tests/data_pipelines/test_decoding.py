"""One picture in every mode and format: prediction, pipelines and serving agree.

Each file is read alike by all of them, or refused by all. A saved graph may refuse a
format that Pillow reads.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from keras_cvt import data
from keras_cvt.preprocessing import EvalTransform, decoding, preprocess_input

tf = pytest.importorskip("tensorflow")

Image.init()
# Pillow 11.3 and later.
AVIF = "AVIF" in Image.SAVE_ALL
SIZE = (24, 32)
AS_IT_IS = EvalTransform(SIZE, None)
MODES = (
    *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"),
    *("LAB", "HSV", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"),
)


def picture(mode):
    """Return a picture of smooth colours in a mode, with alpha from left to right."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype="uint8"))
    rgb = small.resize(SIZE[::-1], Image.Resampling.BICUBIC)
    if mode.startswith("I;16"):
        values = np.asarray(rgb.convert("L")) * np.uint16(257)
        values = values.astype({"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2"))
        return Image.frombytes(mode, rgb.size, values.tobytes())
    if mode == "LAB":
        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
        return ImageCms.applyTransform(rgb, transform)
    if mode[-1] in "Aa":
        rgba = rgb.copy()
        rgba.putalpha(Image.fromarray(np.tile(np.uint8(range(0, 256, 8)), (24, 1))))
        return rgba.convert("LA").convert("PA") if mode == "PA" else rgba.convert(mode)
    return rgb.convert(mode)


def saved(image, name, **options):
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def pillows():
    """Return {(mode, format): file} of all that Pillow writes and opens again."""
    found = {}
    for mode in MODES:
        image = picture(mode)
        for name in sorted(Image.SAVE):
            try:
                content = saved(image, name)
                Image.open(io.BytesIO(content)).close()
            except Exception:  # each plugin raises its own
                continue
            found[mode, name] = content
    return found


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(depth, color, before=b"", after=b"", size=SIZE, rows=True):
    """Return a PNG of random values, also of kinds that Pillow does not write."""
    height, width = size
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    rng = np.random.default_rng(depth)
    line = (width * channels * depth + 7) // 8
    lines = rng.integers(0, 256, (height if rows else 0, line), dtype="uint8")
    palette = rng.integers(0, 256, 3 * 2 ** min(depth, 8), dtype="uint8").tobytes()
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(
                b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
            ),
            before,
            chunk(b"PLTE", palette) if color == 3 else b"",
            after,
            chunk(b"IDAT", zlib.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes())),
            chunk(b"IEND", b""),
        ]
    )


def pngs():
    """Return {(bits and color type, other chunk): file}."""
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    transparent = {0: b"\0\1", 2: b"\0\1\0\1\0\1", 3: b"\x80\0"}
    found = {}
    for color, depth in (
        (c, d) for c, all_depths in depths.items() for d in all_depths
    ):
        name = f"PNG {depth} bits, type {color}"
        found[name, "plain"] = png(depth, color)
        found[name, "gAMA"] = png(
            depth, color, chunk(b"gAMA", struct.pack(">I", 30000))
        )
        if color in transparent:
            alpha = chunk(b"tRNS", transparent[color])
            found[name, "tRNS"] = png(depth, color, after=alpha)
    return found


def without_adobe(content):
    """Remove the marker that tells how the CMYK of a JPEG is meant."""
    start = content.index(b"\xff\xee")
    return content[:start] + content[start + 16 :]


def others():
    """Return {(kind, variant): file}: animations, orientations, kinds of JPEG."""
    rgb, cmyk = picture("RGB"), saved(picture("CMYK"), "JPEG")
    more = [Image.new("RGB", rgb.size, color) for color in ("red", "blue")]
    animated = {"save_all": True, "append_images": more}
    found = {
        ("animated", name): saved(rgb, name, **animated)
        for name in ("GIF", "WEBP", "TIFF", "PNG", *AVIF * ["AVIF"])
    }
    for angle in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = angle
        for name in ("JPEG", "PNG", "WEBP", "TIFF"):
            found[f"orientation {angle}", name] = saved(rgb, name, exif=exif)
    kinds = {
        "progressive": {"progressive": True},
        "RGB": {"keep_rgb": True},
        **{f"subsampling {i}": {"subsampling": i} for i in range(3)},
    }
    for kind, options in kinds.items():
        found["JPEG", kind] = saved(rgb, "JPEG", **options)
    found["JPEG", "CMYK without Adobe's marker"] = without_adobe(cmyk)
    seen = rgb.quantize(16)
    for name in ("GIF", "PNG", "WEBP"):
        found["transparent color", name] = saved(seen, name, transparency=3)
    found["16 bits", "PPM"] = b"P5 32 24 65535 " + picture("I;16B").tobytes()
    return found


GROUPS = {"Pillow": pillows, "PNG": pngs, "other": others}


def reference(content):
    """Return what a file shows, or None if nothing tells."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            values = np.asarray(image)
            if image.mode.startswith("I;16") or (image.mode, image.format) == (
                "I",
                "PPM",
            ):
                return np.stack([values.astype("int64") // 256] * 3, axis=-1)
            if image.mode in ("I", "F") and not 1 < values.max() <= 255:
                return None
            return np.asarray(image.convert("RGB"))
    except OSError:  # EPS needs Ghostscript
        return None


def graph(others):
    @tf.function(input_signature=[tf.TensorSpec((), "string")])
    def decode(content):
        return decoding.decode(content, others)

    def read(content):
        try:
            return decode(content).numpy()
        except tf.errors.InvalidArgumentError:
            return None

    return read


def predicted(path):
    try:
        return preprocess_input(path, AS_IT_IS)[0]
    except ValueError:
        return None


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_is_read_alike_or_refused(group, tmp_path):
    pipeline, serving = graph(decoding.decode_with_pil), graph(decoding.refuse)
    files, wrong, served = GROUPS[group](), {}, set()
    for kind, content in files.items():
        expected = reference(content)
        path = tmp_path / "image"
        path.write_bytes(content)
        found = {"pipeline": pipeline(content)}
        answer = serving(content)
        if answer is not None:
            served.add(kind)
            found["serving"] = answer
        for road, pixels in found.items():
            if (pixels is None) != (expected is None):
                wrong[kind, road] = "read" if expected is None else "refused"
            elif pixels is not None and np.abs(1.0 * pixels - expected).max() > 1:
                wrong[kind, road] = "other pixels"
        whole = None if expected is None else preprocess_input(expected, AS_IT_IS)[0]
        found = predicted(path)
        if (found is None) != (whole is None) or np.any(found != whole):
            wrong[kind, "prediction"] = "refused" if found is None else "other pixels"
    assert wrong == {}
    plain = {k for k in files if "PNG" in str(k) or "JPEG" in k or "MPO" in k}
    assert served == plain - {("JPEG", "CMYK without Adobe's marker")}
    assert len(files) >= {"Pillow": 160, "PNG": 38, "other": 45}[group]


def test_transparency_is_put_over_no_background(tmp_path):
    rgba = picture("RGBA")
    for name in ("PNG", "TIFF", "BMP"):
        rgba.save(tmp_path / "image", name)
        found = preprocess_input(tmp_path / "image", AS_IT_IS)[0]
        np.testing.assert_array_equal(found, np.asarray(rgba)[..., :3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of two classes with all files that Pillow writes."""
    root = tmp_path_factory.mktemp("photos")
    suffixes = {
        "JPEG": "JPG",
        "TIFF": "Tif",
        "WEBP": "webp",
        "GIF": "gif",
        "BMP": "bmp",
    }
    for i, ((mode, name), content) in enumerate((pillows() | others()).items()):
        file = f"{i:03} {mode.replace(';', ' ')}.{suffixes.get(name, 'png')}"
        path = root / "train" / "ab"[i % 2] / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def test_training_and_evaluation_show_what_prediction_sees(folder):
    source = data.open_source(folder, "train")
    paths = sorted((folder / "train").rglob("*.*"))
    expected = {str(path): predicted(path) for path in paths}
    refused = {path for path, pixels in expected.items() if pixels is None}
    assert set(source.corrupt) == refused
    expected = [pixels for pixels in expected.values() if pixels is not None]
    assert source.count == len(expected) > 200
    for batches in (
        data.evaluation_batches(source, AS_IT_IS, source.count),
        data.training_batches(source, SIZE, source.count).take(1),
    ):
        (images,) = [images.numpy() for images, _ in batches]
        # Each of them shows all images, training in another order.
        left = list(expected)
        for image in images:
            left.pop(min(range(len(left)), key=lambda i: np.abs(left[i] - image).max()))
        ordered = sorted(map(np.sum, images)), sorted(map(np.sum, expected))
        np.testing.assert_allclose(*ordered, atol=images[0].size)


# Too many pixels


def jpeg_of(height, width):
    content = bytearray(saved(picture("RGB"), "JPEG"))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def gif_of(height, width):
    content = bytearray(saved(picture("P"), "GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def bmp_of(height, width):
    content = bytearray(saved(picture("RGB"), "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


HUGE = {
    "a.png": png(8, 2, size=(20000, 20000), rows=False),
    "a.jpg": jpeg_of(20000, 20000),
    "a.gif": gif_of(20000, 20000),
    "a.bmp": bmp_of(20000, 20000),
    "long.png": png(8, 2, size=(65_536, 1), rows=False),
    "wide.png": png(8, 2, size=(1, 2_000_000), rows=False),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_file_of_too_many_pixels_is_refused_before_it_is_decoded(name, tmp_path):
    (tmp_path / name).write_bytes(HUGE[name])
    with pytest.raises(ValueError, match=f"pixels.*{name}"):
        preprocess_input(tmp_path / name, AS_IT_IS)
    good = saved(picture("RGB"), "PNG")
    roads = {decoding.decode_with_pil: "pixels", decoding.refuse: "pixels|JPEG file"}
    for others, message in roads.items():
        files = tf.data.Dataset.from_tensors(HUGE[name])
        images = files.map(
            lambda content, others=others: decoding.decode(content, others)
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            next(iter(images))
        assert graph(others)(good).shape == (*SIZE, 3)


def test_files_of_too_many_pixels_are_reported_when_the_folder_is_opened(tmp_path):
    for label in "ab":
        (tmp_path / "train" / label).mkdir(parents=True)
        picture("RGB").save(tmp_path / "train" / label / "good.png")
    for name, content in HUGE.items():
        (tmp_path / "train/a" / name).write_bytes(content)
    names = {str(tmp_path / "train/a" / name) for name in HUGE}
    assert set(data.open_source(tmp_path, "train").corrupt) == names


@pytest.mark.parametrize("crop_ratio", [None, 0.875])
@pytest.mark.parametrize("shape", [(20000, 1), (1, 60000), (3, 20000), (65535, 2)])
def test_a_long_image_is_resized_only_where_the_crop_keeps_it(shape, crop_ratio):
    transform = EvalTransform((48, 64), crop_ratio)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype="uint8")
    found = preprocess_input(image, transform)[0]
    assert found.shape == (48, 64, 3)
    tensor = preprocess_input(tf.constant(image), transform)
    assert np.abs(found - tensor).max() <= 2
    floats = preprocess_input(image.astype("float32"), transform)[0]
    assert np.abs(floats - found).max() <= 2


def test_the_limit_is_pillows_on_every_road(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    image = np.zeros((20, 41, 3), "uint8")
    message = "at most 800 pixels.*Received: 20 x 41 pixels"
    for given in (image, image.astype("float32"), Image.fromarray(image)):
        with pytest.raises(ValueError, match=message):
            preprocess_input(given, AS_IT_IS)
    with pytest.raises(ValueError, match=message):
        preprocess_input(tf.constant(image), AS_IT_IS)
    spec = tf.TensorSpec((None, None, 3), "uint8")
    dataset = tf.data.Dataset.from_generator(lambda: [image], output_signature=spec)
    dataset = dataset.map(lambda image: preprocess_input(image, AS_IT_IS))
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 800 pixels"):
        next(iter(dataset))
    assert preprocess_input(image[:19], AS_IT_IS).shape == (1, *SIZE, 3)
