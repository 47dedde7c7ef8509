"""The programs for dense prediction learn, save, export, and refuse bad data."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig
from keras_cvt.checkpoints import save_checkpoint

EXAMPLES = Path(__file__).parents[1] / "examples"
pytest.importorskip("keras_hub", reason="keras_hub is not installed")
pytest.importorskip("pycocotools", reason="pycocotools is not installed")


@pytest.fixture
def examples(monkeypatch):
    """Import of the programs' modules."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return lambda name: __import__(name)


@pytest.fixture
def tiny(tmp_path):
    """The path of a small configuration with the strides of the published ones."""
    stages = (
        StageConfig(16, 1, 1, 7, 4, 2),
        StageConfig(32, 1, 2, 3, 2, 1),
        StageConfig(64, 1, 4, 3, 2, 1, cls_token=True),
    )
    CvTConfig(stages).to_json(tmp_path / "tiny.json")
    return tmp_path / "tiny.json"


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def percent(pattern, text):
    return float(re.search(pattern + r" ([\d.]+)%", text)[1])


def write_masks(folder, scenes_of, counts, size):
    """Write digit scenes with masks of two classes: the background and digits."""
    for split, count in zip(("train", "validation"), counts, strict=True):
        for part in ("images", "masks"):
            (folder / split / part).mkdir(parents=True)
        for index, scene in enumerate(scenes_of(split, count, size)):
            mask = np.minimum(scene.mask, 1)
            mask[0] = 255
            for part, array in (("images", scene.image), ("masks", mask)):
                Image.fromarray(array).save(folder / split / part / f"{index}.png")
    (folder / "classes.txt").write_text("background\ndigit\n")


def test_a_segmenter_learns_and_its_files_compute_the_same(tiny, tmp_path, examples):
    scenes = examples("digit_scenes").DigitScenes
    # Other than the size for which the segmenter is trained.
    write_masks(tmp_path / "data", scenes, (160, 24), (96, 144))
    # Weights of a classifier, which has the same body.
    classifier = keras_cvt.CvT(CvTConfig.from_json(tiny), classes=3)
    save_checkpoint(classifier, tmp_path / "body.safetensors", layout="official")
    result = run(
        "segment.py",
        *("--data", tmp_path / "data", "--image-size", 64, 96, "--model", tiny),
        *("--weights", tmp_path / "body.safetensors", "--epochs", 5),
        *("--batch-size", 8, "--learning-rate", 3e-3, "--output", tmp_path / "out"),
    )
    assert result.returncode == 0, result.stderr
    assert "160 training and 24 validation images of 2 classes" in result.stdout
    learned = percent("mIoU", result.stdout)
    assert learned > percent("'background':", result.stdout) + 10
    for name in ("segmenter.keras", "segmenter.tflite"):
        line = re.search(rf"{name}: ([\d.]+)% same classes", result.stdout)
        assert float(line[1]) >= 99.9
        assert (tmp_path / "out" / name).is_file()
    picture = Image.open(tmp_path / "out" / "segmenter.png")
    assert picture.width > 500


def write_coco(folder, scenes_of, counts, size):
    """Write digit scenes in COCO's format, with one category for all digits."""
    (folder / "images").mkdir(parents=True)
    for split, count in zip(("train", "validation"), counts, strict=True):
        images, annotations = [], []
        for index, scene in enumerate(scenes_of(split, count, size)):
            name = f"{split}{index}.png"
            Image.fromarray(scene.image).save(folder / "images" / name)
            images.append({"id": 10 + index, "file_name": name})
            for left, top, right, bottom in scene.boxes.tolist():
                box = [left, top, right - left, bottom - top]
                record = {"image_id": 10 + index, "category_id": 7, "bbox": box}
                annotations.append(record)
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 7, "name": "digit"}],
        }
        (folder / f"{split}.json").write_text(json.dumps(content))


def test_a_detector_learns_and_its_files_compute_the_same(tiny, tmp_path, examples):
    scenes = examples("digit_scenes").DigitScenes
    # Other than the size for which the detector is trained.
    write_coco(tmp_path / "coco", scenes, (200, 20), (96, 144))
    result = run(
        "detect.py",
        *("--data", tmp_path / "coco", "--model", tiny, "--image-size", 64, 96),
        *("--anchor-size", 2, "--head-layers", 1, "--epochs", 6),
        *("--batch-size", 8, "--learning-rate", 3e-3, "--output", tmp_path / "out"),
    )
    assert result.returncode == 0, result.stderr
    assert "200 training and 20 validation images of 1 classes" in result.stdout
    assert percent("mAP", result.stdout) > 5
    for name in ("detector.keras", "detector.tflite"):
        line = re.search(rf"{name}: ([\d.]+)% same classes", result.stdout)
        assert float(line[1]) >= 99.9
        assert (tmp_path / "out" / name).is_file()
    picture = Image.open(tmp_path / "out" / "detector.png")
    assert picture.width > 500


def test_scenes_are_reproducible_and_their_boxes_enclose_the_digits(examples):
    module = examples("digit_scenes")
    scenes = module.DigitScenes("train", 5, (64, 96), seed=3)
    again = module.DigitScenes("train", 5, (64, 96), seed=3)
    other = module.DigitScenes("validation", 5, (64, 96), seed=3)
    for scene, same, differs in zip(scenes, again, other, strict=True):
        assert scene.image.shape == (64, 96, 3) and scene.image.dtype == np.uint8
        assert all(map(np.array_equal, scene, same))
        assert not np.array_equal(scene.image, differs.image)
        rest = scene.mask.copy()
        for box, label in zip(scene.boxes.astype(int), scene.labels, strict=True):
            left, top, right, bottom = box
            inside = scene.mask[top:bottom, left:right]
            assert set(np.unique(inside)) == {0, 1 + label}
            rows, columns = np.nonzero(inside)
            assert (rows.min(), columns.min()) == (0, 0)
            assert (rows.max() + 1, columns.max() + 1) == inside.shape
            rest[top:bottom, left:right] = 0
        assert not rest.any()


def write_pair(folder, name, mask, size=(12, 8)):
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 9, 9)).save(folder / "images" / f"{name}.jpg")
    if mask is not None:
        mask.save(folder / "masks" / f"{name}.png")


def palette_mask(values):
    mask = Image.fromarray(np.array(values, "uint8"), "P")
    # 256 colours, of which Pillow writes all 8 bits.
    mask.putpalette([level for index in range(256) for level in (255 - index, 0, 0)])
    return mask


def test_a_mask_is_read_by_its_palette_index_and_resized_without_mixing(
    tmp_path, examples
):
    values = np.zeros((8, 12), "uint8")
    values[:, 6:] = 2
    values[0, 0] = 255
    write_pair(tmp_path, "a", palette_mask(values))
    pairs = examples("segment").Folder(tmp_path, (16, 24))
    assert pairs.names == ("0", "1", "2")
    image, mask = pairs[0]
    assert image.shape == (16, 24, 3)
    assert set(np.unique(mask)) == {0, 2, 255}
    assert (mask[:, 12:] == 2).all()


def test_ignored_pixels_do_not_count(examples, capsys):
    truth = np.array([[[0, 0, 1, 1], [2, 2, 255, 255]]], "uint8")
    predicted = np.array([[[0, 1, 1, 1], [2, 2, 0, 2]]])

    class Pairs(list):
        names = ("sky", "tree", "house")

    class Segmenter:
        def predict_on_batch(self, images):
            return np.eye(3, dtype="float32")[predicted]

    pairs = Pairs([(np.zeros((2, 4, 3), "uint8"), truth[0])])
    options = argparse.Namespace(batch_size=1)
    mean = examples("segment").evaluate(Segmenter(), options, pairs)
    assert mean == pytest.approx((1 / 2 + 2 / 3 + 1) / 3, abs=1e-5)
    printed = capsys.readouterr().out
    assert re.search(r"tree +66.67", printed)
    # Two of the six pixels that count are sky.
    assert "(always 'sky': 11.11%)" in printed


BAD_MASKS = {
    "no mask": (None, None, "Expected a mask for each of the 1 images"),
    "a class out of range": (
        Image.new("L", (12, 8), 3),
        ("sky", "tree"),
        "Expected classes from 0 to 1, or 255 to ignore a pixel. Received: 3",
    ),
    "another size": (
        Image.new("L", (8, 12)),
        None,
        "size of its image, 12 x 8. Received: 8 x 12",
    ),
    "a coloured mask": (
        Image.new("RGB", (12, 8)),
        None,
        "Expected a mask of 8 bits.*Received: a picture of mode RGB",
    ),
}


@pytest.mark.parametrize("case", BAD_MASKS)
def test_a_bad_mask_is_refused(case, tmp_path, examples):
    mask, names, message = BAD_MASKS[case]
    write_pair(tmp_path, "a", mask)
    with pytest.raises(ValueError, match=message):
        examples("segment").Folder(tmp_path, (16, 24), names)


def coco(**changes):
    """Return a valid file in COCO's format for one image of 12 x 8, with changes."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]}],
    }
    return content | changes


def box(**changes):
    return [{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]} | changes]


BAD_COCO = {
    "no images": ({"images": []}, "a list 'images' in .*Received: an empty list"),
    "no list": ({"images": None}, "a list 'images' in .*Received: NoneType"),
    "an unknown category": (
        {"annotations": box(category_id=9)},
        "category_id to be one of the 2 in .*Received: 9",
    ),
    "an unknown image": (
        {"annotations": box(image_id=9)},
        "image_id to be one of the 1 in .*Received: 9",
    ),
    "a box outside": (
        {"annotations": box(bbox=[6, 2, 8, 4])},
        r"inside of the image, 12 x 8. Received: \[6, 2, 8, 4\]",
    ),
    "three numbers": (
        {"annotations": box(bbox=[6, 2, 8])},
        r"boxes \[left, top, width, height\] .*Received: \[6, 2, 8\]",
    ),
    "no box": (
        {"annotations": [{"image_id": 1, "category_id": 5}]},
        "Expected image_id, category_id, bbox .*without bbox",
    ),
    "no file": (
        {"images": [{"id": 1, "file_name": "b.jpg"}]},
        "Expected an image file. Received: .*b.jpg",
    ),
}


@pytest.mark.parametrize("case", BAD_COCO)
def test_a_bad_json_is_refused(case, tmp_path, examples):
    changes, message = BAD_COCO[case]
    write_pair(tmp_path, "a", None)
    (tmp_path / "train.json").write_text(json.dumps(coco(**changes)))
    with pytest.raises(ValueError, match=message):
        examples("detection_data").Coco(tmp_path, "train", (16, 24))


def test_boxes_are_scaled_with_their_image_and_crowds_left_out(tmp_path, examples):
    write_pair(tmp_path, "a", None)
    annotations = [*box(), *box(iscrowd=1), *box(bbox=[1, 1, 0, 3])]
    annotations += box(category_id=2, bbox=[0, 0, 12.4, 8])
    (tmp_path / "train.json").write_text(json.dumps(coco(annotations=annotations)))
    images = examples("detection_data").Coco(tmp_path, "train", (16, 36))
    assert images.names == ("dog", "cat")
    _, target = images[0]
    np.testing.assert_allclose(target["boxes"], [[3, 4, 12, 12], [0, 0, 36, 16]])
    np.testing.assert_array_equal(target["labels"], [1, 0])
    # In the evaluation, what is found in a crowd does not count.
    ((crowd, label),) = images.crowds(0)
    assert (crowd.tolist(), label) == ([1, 2, 4, 6], 1)
    annotations = box(iscrowd=1)
    (tmp_path / "train.json").write_text(json.dumps(coco(annotations=annotations)))
    with pytest.raises(ValueError, match="boxes that are not of crowds"):
        examples("detection_data").Coco(tmp_path, "train", (16, 36))


def test_precision_is_that_of_coco(examples):
    detect = examples("detect")
    truth = [detect.record_of(0, (0, 0, 10, 10), 0, id=1)]
    truth += [detect.record_of(1, (0, 0, 10, 10), 0, id=2)]
    # IoU 1, and IoU 0.6 with half of the right boxes.
    found = [detect.record_of(0, (0, 0, 10, 10), 0, score=0.9)]
    found += [detect.record_of(1, (0, 0, 10, 6), 0, score=0.8)]
    precision = detect.average_precision(truth, found, 2, ("a", "b"))
    half_recall = 51 / 101  # of COCO's 101 levels of recall
    expected = [1, (3 * 1 + 7 * half_recall) / 10]
    np.testing.assert_allclose(precision[0], expected, atol=1e-3)
    assert np.isnan(precision[1]).all()
    nothing = detect.average_precision(truth, [], 2, ("a", "b"))
    np.testing.assert_array_equal(nothing[0], [0, 0])


def test_a_program_refuses_bad_data_without_a_traceback(tmp_path):
    write_pair(tmp_path / "train", "a", None)
    write_pair(tmp_path / "validation", "a", None)
    for program, arguments, message in (
        ("segment.py", ["--data", tmp_path], "Expected a mask for each"),
        ("segment.py", ["--image-size", 60, 64], "Expected --image-size of multiples"),
        ("detect.py", ["--data", tmp_path], "Expected train.json, validation.json"),
    ):
        result = run(program, *arguments)
        assert result.returncode == 1 and message in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
