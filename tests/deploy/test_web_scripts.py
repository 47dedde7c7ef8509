"""The scripts of a web page in Node, without a browser."""

import io
import json

import numpy as np
import pytest
import web_browser
from PIL import Image, ImageCms

import keras_cvt
from keras_cvt.preprocessing import EvalTransform, transform

PREPROCESS = """
import fs from "node:fs";
import { preprocess } from "./preprocess.js";

for (const { file, size, transform, tallFirst } of JSON.parse(
  fs.readFileSync(process.argv[2]),
)) {
  const rgba = new Uint8Array(fs.readFileSync(file));
  const pixels = preprocess(rgba, ...size, transform, tallFirst);
  fs.writeFileSync(`${file}.out`, pixels);
}
"""
SIZES = [
    *((224, 224), (256, 256), (500, 333), (333, 500), (50, 40), (1, 1), (1, 300)),
    *((64, 900), (900, 64), (257, 256), (640, 480), (224, 500), (2000, 100)),
]
TRANSFORMS = [
    EvalTransform((224, 224), 0.875),
    EvalTransform((384, 384), None),
    EvalTransform((64, 96), 0.9),
    EvalTransform((33, 65), 1.0),
]


def test_the_script_makes_the_pixels_of_preprocess_input(tmp_path):
    rng = np.random.default_rng(0)
    images, calls = [], []
    for size in SIZES:
        width, height = size
        for wanted in TRANSFORMS:
            image = rng.integers(0, 256, (height, width, 4), "uint8")
            # Sharp edges, behind which bicubic values are clipped.
            image[: height // 2] = 255 * (image[: height // 2] > 127)
            file = tmp_path / f"{len(images)}.raw"
            file.write_bytes(image.tobytes())
            images.append((image[..., :3].copy(), wanted))
            calls.append(
                {
                    "file": str(file),
                    "size": size,
                    "transform": wanted.to_dict(),
                    "tallFirst": bool(transform.vertical_first(4, 1, 1, 1)),
                }
            )
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    web_browser.run_in_node(tmp_path, PREPROCESS, tmp_path / "calls.json")
    for call, (image, wanted) in zip(calls, images, strict=True):
        expected = keras_cvt.preprocess_input(Image.fromarray(image), wanted)[0]
        found = np.fromfile(call["file"] + ".out", "uint8").reshape(expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=str(call))


def test_the_script_refuses_what_preprocess_input_refuses(tmp_path):
    program = """
    import { checkSize } from "./preprocess.js";
    const refused = [[0, 5], [65536, 1], [20000, 9000], [65535, 1], [10000, 10000]];
    console.log(JSON.stringify(refused.map(([width, height]) => {
      try { checkSize(width, height); return false; } catch { return true; }
    })));
    """
    found = json.loads(web_browser.run_in_node(tmp_path, program))
    assert found == [True, True, True, False, False]


PLAIN = """
import fs from "node:fs";
import { withoutMetadata } from "./decode.js";

const [source, target, upright] = process.argv.slice(2);
const parts = withoutMetadata(fs.readFileSync(source), upright === "upright");
fs.writeFileSync(target, Buffer.concat(parts));
"""


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WebP"])
def test_orientation_and_profile_are_taken_out_of_a_file(tmp_path, format, upright):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), "uint8")
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    source, target = tmp_path / "source", tmp_path / "target"
    image = Image.fromarray(pixels)
    image.save(source, format, exif=exif, icc_profile=profile, lossless=True)
    word = "upright" if upright else "-"
    web_browser.run_in_node(tmp_path, PLAIN, source, target, word)
    with Image.open(source) as before, Image.open(target) as after:
        assert "icc_profile" in before.info and "icc_profile" not in after.info
        assert before.getexif()[0x0112] == 6
        assert after.getexif().get(0x0112) == (6 if upright else None)
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))


def test_other_and_damaged_files_pass_through_as_they_are(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (9, 9)).save(content, "GIF")
    for i, data in enumerate((content.getvalue(), b"", b"\xff\xd8\xff", b"\x89PNG")):
        source, target = tmp_path / f"{i}", tmp_path / f"{i}.out"
        source.write_bytes(data)
        web_browser.run_in_node(tmp_path, PLAIN, source, target, "-")
        assert target.read_bytes() == data
