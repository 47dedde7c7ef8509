"""Files of results for images of any number, which survive a kill."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import run
from image_folders import write_image
from test_classifier import network

import keras_cvt
from keras_cvt._utils import files
from keras_cvt.inference import classifier_of, image_paths, predict_files, predict_rows
from keras_cvt.preprocessing.batches import file_batches

COUNT = 11


@pytest.fixture(scope="module")
def classifier():
    model = network()
    model.class_names = ["daisy", "rose", "tulip"]
    return classifier_of(model)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eleven images in folders, of which one cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(COUNT):
        write_image(folder / f"{i // 4}" / f"{i:02}.png", i, (20 + i, 30))
    (folder / "1" / "05.png").write_bytes(b"no image")
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_image_has_a_row_in_order(classifier, photos, tmp_path):
    out = tmp_path / "out.jsonl"
    summary = predict_files(classifier, [photos], out, top=2, batch_size=3)
    rows = lines(out)
    assert [row["image"] for row in rows] == [
        str(photos / f"{i // 4}" / f"{i:02}.png") for i in range(COUNT)
    ]
    assert (summary.images, summary.unreadable, summary.resumed) == (COUNT, 1, 0)
    assert "05.png" in rows[5].pop("error") and rows[5].keys() == {"image"}
    for row in rows[:5] + rows[6:]:
        pixels = keras_cvt.preprocess_input(row["image"], classifier)
        (expected,) = classifier.best(classifier.scores(pixels), 2)
        found = row["predictions"]
        assert [e["label"] for e in found] == [e["label"] for e in expected]
        np.testing.assert_allclose(
            [e["score"] for e in found], [e["score"] for e in expected], atol=1e-6
        )
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_csv_and_parquet_hold_the_same(classifier, photos, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for suffix in (".jsonl", ".csv", ".parquet"):
        predict_files(classifier, [photos], tmp_path / f"out{suffix}", top=9)
    rows = lines(tmp_path / "out.jsonl")
    with open(tmp_path / "out.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(rows) == len(cells) == len(table) == COUNT
    for row, line, record in zip(rows, cells, table, strict=True):
        assert row["image"] == line["image"] == record["image"]
        assert row.get("error") == (line["error"] or None) == record["error"]
        found = row.get("predictions", [])
        assert [e["label"] for e in found] == (record["labels"] or [])
        np.testing.assert_allclose([e["score"] for e in found], record["scores"] or [])
        for i, entry in enumerate(found, start=1):
            assert line[f"label_{i}"] == entry["label"]
            assert float(line[f"score_{i}"]) == entry["score"]
    # Three classes, although nine were asked for.
    assert "label_3" in cells[0] and "label_4" not in cells[0]


def test_a_list_names_images(classifier, photos, tmp_path):
    names = [photos / "0" / "03.png", photos / "2" / "08.png"]
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\r\n\n".join(map(os.fsencode, names)) + b"\n")
    assert list(image_paths([], listed)) == list(map(str, names))
    predict_files(classifier, [], tmp_path / "out.jsonl", list_file=listed)
    found = [row["image"] for row in lines(tmp_path / "out.jsonl")]
    assert found == list(map(str, names))
    listed.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        predict_files(classifier, [], tmp_path / "o.jsonl", list_file=listed)


def test_names_that_are_no_text_are_kept(classifier, tmp_path):
    write_image(tmp_path / "a.png")
    strange = os.fsencode(tmp_path / "a") + b"\xff.png"
    os.rename(tmp_path / "a.png", strange)
    for suffix in (".jsonl", ".csv"):
        predict_files(classifier, [os.fsdecode(strange)], tmp_path / f"out{suffix}")
    (row,) = lines(tmp_path / "out.jsonl")
    assert os.fsencode(row["image"]) == strange
    assert "a\\xff.png" in (tmp_path / "out.csv").read_text()


def test_few_images_are_in_memory(photos):
    """However many paths there are: at most three batches are asked for ahead."""
    taken = []

    def endless():
        while True:
            taken.append(photos / "0" / "00.png")
            yield taken[-1]

    transform = keras_cvt.preprocessing.EvalTransform((8, 8), None)
    batches = file_batches(endless(), transform, 4)
    for number in range(1, 6):
        batch = next(batches)
        assert batch.images.shape == (4, 8, 8, 3) and len(batch.paths) == 4
        assert len(taken) == 4 * (number + 2)
    batches.close()


class Killed(BaseException):
    pass


def killed_after(batches, before=None):
    """Return a `progress` that ends the run as a kill would, in that batch."""
    seen = []

    def progress(done, total, rows):
        seen.append(done)
        if before is not None:
            before(done)
        if len(seen) > batches:
            raise Killed

    return progress


@pytest.mark.parametrize("batches", [0, 1, 3])
@pytest.mark.parametrize("torn", [b"", b'{"image": "x', b"\0" * 100 + b"\n"])
def test_a_resumed_run_gives_what_an_uninterrupted_one_does(
    classifier, photos, tmp_path, batches, torn
):
    arguments = {"batch_size": 3, "top": 3}
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    predict_files(classifier, [photos], whole, **arguments)
    with pytest.raises(Killed):
        predict_files(
            classifier, [photos], out, progress=killed_after(batches), **arguments
        )
    assert not out.exists()
    partial = tmp_path / "out.jsonl.partial"
    with partial.open("ab") as file:
        file.write(torn)
    with pytest.raises(FileExistsError, match="resume=True"):
        predict_files(classifier, [photos], out, **arguments)
    summary = predict_files(classifier, [photos], out, resume=True, **arguments)
    assert (summary.images, summary.unreadable) == (COUNT, 1)
    assert summary.resumed == 3 * batches
    assert out.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_a_run_that_was_killed_at_once_starts_again(classifier, photos, tmp_path):
    out = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.partial").write_bytes(b'{"classif')
    assert predict_files(classifier, [photos], out, resume=True).resumed == 0
    assert len(lines(out)) == COUNT


def test_resume_refuses_other_settings_and_images(classifier, photos, tmp_path):
    out = tmp_path / "out.jsonl"

    def predict(sources=(photos,), by=classifier, **changes):
        arguments = {"batch_size": 3, "resume": True} | changes
        return predict_files(by, sources, out, **arguments)

    with pytest.raises(Killed):
        predict(progress=killed_after(2))
    kept = (tmp_path / "out.jsonl.partial").read_bytes()
    for changes, field in (
        ({"top": 2}, "top"),
        ({"batch_size": 2}, "batch_size"),
        ({"by": classifier_of(network(activation=None))}, "classes_sha256"),
    ):
        with pytest.raises(ValueError, match=f"other settings.*{field}"):
            predict(**changes)
    with pytest.raises(ValueError, match="other images"):
        predict([photos / "1", photos / "0", photos / "2"])
    with pytest.raises(ValueError, match=r"other images.*Received: None"):
        predict([photos / "0"])
    assert (tmp_path / "out.jsonl.partial").read_bytes() == kept
    assert predict().resumed == 6
    with pytest.raises(FileExistsError, match="is finished"):
        predict()


def test_two_processes_do_not_write_the_same_file(classifier, photos, tmp_path):
    out = tmp_path / "out.jsonl"
    tried = []

    def another(done):
        with pytest.raises(FileExistsError, match="Another process"):
            predict_files(classifier, [photos], out, resume=True)
        tried.append(done)

    def progress(done, total, rows):
        if done == 0:
            another(done)

    predict_files(classifier, [photos], out, progress=progress)
    assert tried == [0] and len(lines(out)) == COUNT


def test_a_failing_disk_leaves_what_was_there(
    classifier, photos, tmp_path, monkeypatch
):
    out = tmp_path / "out.csv"
    out.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_whole", full)
        with pytest.raises(OSError, match="No space"):
            predict_files(classifier, [photos], out)
    assert out.read_text() == "before"
    summary = predict_files(classifier, [photos], out, resume=True)
    # The last batch is not complete, and so is computed again.
    assert summary.resumed == 8 and summary.images == COUNT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "out.txt"}, r"\.jsonl, \.csv, \.parquet"),
        ({"top": 0}, "top=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"sources": []}, "at least one image"),
        ({"sources": ["{empty}"]}, "folder with images"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_written(
    classifier, photos, tmp_path, arguments, message
):
    empty = tmp_path / "empty"
    empty.mkdir()
    given = {"sources": [photos], "output": "out.jsonl"} | arguments
    given["sources"] = [str(s).format(empty=empty) for s in given["sources"]]
    given["output"] = tmp_path / given["output"]
    with pytest.raises(ValueError, match=message):
        predict_files(classifier, **given)
    assert list(tmp_path.iterdir()) == [empty]


def test_rows_come_batch_by_batch(classifier, photos):
    batches = list(predict_rows(classifier, image_paths([photos]), batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m.keras"
    network().save(path)
    return path


def test_the_command_writes_and_says_what_it_skipped(photos, tmp_path, saved):
    out = tmp_path / "out.csv"
    words = ["predict", photos, "--model", saved, "--output", out]
    status, printed, errors = run(*words)
    assert status == 1 and f"saved {out}: {COUNT} images, 1 of which" in printed
    assert "skipped" in errors and "05.png" in errors
    assert len(out.read_text().splitlines()) == COUNT + 1
    status, printed, _ = run(*words, "--json")
    facts = json.loads(printed)
    assert (facts["images"], facts["skipped"], facts["resumed"]) == (COUNT, 1, 0)
    status, printed, _ = run(*words, "--resume")
    assert status == 0 and "is finished" in printed


def test_the_command_needs_images_and_an_output_to_resume(photos, saved):
    status, _, errors = run("predict", "--model", saved)
    assert status == 1 and "Expected IMAGE... or --images-from" in errors
    status, _, errors = run("predict", photos, "--model", saved, "--resume")
    assert status == 1 and "--resume with --output" in errors


def test_the_command_runs_an_exported_file(photos, tmp_path, saved):
    exported = tmp_path / "m.tflite"
    status, *_ = run("export", saved, exported, "--no-verify")
    assert status == 0
    results = {}
    for model in (saved, exported):
        status, printed, _ = run("predict", photos, "--model", model, "--json")
        assert status == 1
        results[model] = json.loads(printed)
    for one, other in zip(results[saved], results[exported], strict=True):
        assert one["image"] == other["image"]
        pairs = zip(one["predictions"], other["predictions"], strict=True)
        assert all(a["score"] == pytest.approx(b["score"], abs=2e-5) for a, b in pairs)
    words = ["predict", photos, "--model", exported, "--weights", "imagenet"]
    status, _, errors = run(*words)
    assert status == 1 and "leave out --weights" in errors


def test_a_process_that_is_killed_loses_and_doubles_nothing(tmp_path, saved):
    """`kill -9` at three moments; each image is in the result exactly once."""
    source = tmp_path / "source.png"
    write_image(source, size=(300, 300))
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(400):
        shutil.copy(source, folder / f"{i:03}.png")
    out = tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    words = ["predict", folder, "--model", saved, "--output", out, "--resume"]
    command = [sys.executable, "-m", "keras_cvt.cli", *map(str, words)]
    for rows in (8, 100, 200):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=-1)
        while process.poll() is None:
            if partial.exists() and partial.read_bytes().count(b"\n") > rows:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "too fast to be killed"
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = [row["image"] for row in lines(out)]
    assert found == [str(folder / f"{i:03}.png") for i in range(400)]
