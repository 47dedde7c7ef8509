"""Folders as people have them: the same images for pipelines and for commands."""

import os

import pytest
from image_folders import write_image

from keras_cvt import data
from keras_cvt.cli import image_files, main
from keras_cvt.cli.loading import read_class_names

pytest.importorskip("tensorflow")


def hidden_file(folder):
    (folder / "._0.png").write_bytes(b"Mac OS X")


def hidden_folder(folder):
    write_image(folder / ".ipynb_checkpoints" / "0-checkpoint.png")


def folder_named_like_an_image(folder):
    (folder / "0.jpg").mkdir()


def link_to_itself(folder):
    (folder / "loop").symlink_to(folder)


def link_to_the_parent(folder):
    (folder / "up").symlink_to(folder.parent)


def links_to_each_other(folder):
    other = folder.parent.parent / "other"
    other.mkdir()
    (folder / "there").symlink_to(other)
    (other / "back").symlink_to(folder)


def dead_link_to_a_folder(folder):
    (folder / "gone").symlink_to(folder / "nowhere")


def pipe(folder):
    os.mkfifo(folder / "pipe.png")


def other_file(folder):
    (folder / "notes.txt").write_text("x")


IGNORED = (
    *(hidden_file, hidden_folder, folder_named_like_an_image, link_to_itself),
    *(link_to_the_parent, links_to_each_other, dead_link_to_a_folder, pipe, other_file),
)


def not_utf8(folder):
    os.rename(folder / "1.png", os.fsencode(folder) + b"/\xff\xfe.png")


def upper_case(folder):
    (folder / "1.png").rename(folder / "1.PNG")


def dots(folder):
    (folder / "v1.0.b").mkdir()
    (folder / "1.png").rename(folder / "v1.0.b" / "1.2.png")


def linked_folder(folder):
    (folder / "1.png").rename(folder.parent.parent / "1.png")
    below = folder.parent.parent / "below"
    below.mkdir()
    (folder.parent.parent / "1.png").rename(below / "1.png")
    for name in ("first", "second"):
        (folder / name).symlink_to(below)


FOUND = (not_utf8, upper_case, dots, linked_folder)


@pytest.fixture
def root(tmp_path):
    for name in ("train/a/0", "train/a/1", "train/b/0"):
        write_image(tmp_path / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize("change", IGNORED + FOUND)
def test_pipelines_and_commands_find_the_same_images(root, change):
    change(root / "train" / "a")
    source = data.open_source(root, "train")
    assert (source.count, source.corrupt) == (3, ())
    assert source.class_names == ("a", "b")
    opened = [os.fsdecode(path) for path, _ in source.files.as_numpy_iterator()]
    assert opened == [str(p) for p in image_files.list_paths([str(root / "train")])]
    labels = [int(label) for _, label in source.files.as_numpy_iterator()]
    assert labels == [0, 0, 1]


@pytest.mark.parametrize("target", ["train", "."])
def test_a_link_to_a_folder_above_is_no_class(root, target):
    (root / "train" / "loop").symlink_to(root / target)
    assert data.open_source(root, "train").class_names == ("a", "b")


def test_a_dead_link_is_an_image_that_cannot_be_read(root):
    (root / "train/a/gone.png").symlink_to(root / "nowhere.png")
    source = data.open_source(root, "train")
    assert source.corrupt == (str(root / "train/a/gone.png"),)


def test_a_class_folder_whose_name_is_not_utf8_is_refused(root):
    os.rename(root / "train/a", os.fsencode(root) + b"/train/caf\xe9")
    with pytest.raises(ValueError, match=r"UTF-8.*Received: 'caf\\udce9'"):
        data.open_source(root, "train")


def test_a_folder_whose_path_is_not_utf8_is_opened(root):
    folder = os.fsdecode(os.fsencode(root) + b"/caf\xe9")
    os.mkdir(folder)
    (root / "train").rename(os.path.join(folder, "train"))
    source = data.open_source(folder, "train")
    assert source.count == 3 and source.name.endswith(r"caf\xe9/train")
    transform = data.pipelines.EvalTransform((8, 8), None)
    (batch,) = data.evaluation_batches(source, transform, 3)
    assert batch[0].shape == (3, 8, 8, 3)


# Commands


def test_images_that_cannot_be_read_are_skipped_and_listed(root, capsys):
    (root / "train/a/bad.png").write_bytes(b"x")
    transform = data.pipelines.EvalTransform((8, 8), None)
    names = [str(root / "train"), str(root / "missing.png")]
    assert image_files.read(names, transform).shape == (3, 8, 8, 3)
    skipped = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].split("/")[-1] for line in skipped] == [
        "bad.png",
        "missing.png",
    ]
    with pytest.raises(ValueError, match="can be read. Received: .*missing.png"):
        image_files.read(names[1:], transform)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"cat\ndog\n", ["cat", "dog"]),
        (b"cat\r\ndog\r\n", ["cat", "dog"]),
        (b"cat\rdog", ["cat", "dog"]),
        ("cat\r\ndög\r\n".encode("utf-8-sig"), ["cat", "dög"]),
        ('["cat", "dog"]'.encode("utf-8-sig"), ["cat", "dog"]),
        ("cat\r\ndög\r\n".encode("utf-16"), ["cat", "dög"]),
        ('["cat", "dög"]'.encode("utf-16"), ["cat", "dög"]),
        (b"\xfe\xff" + "cat\ndog".encode("utf-16-be"), ["cat", "dog"]),
        (b"\n cat \n\n\ndog\t\n \n", ["cat", "dog"]),
        ("cat\x85\u2028dog".encode(), ["cat\x85\u2028dog"]),
        ("cat\ndög".encode("cp1252"), None),
        ("cat\ndog".encode("utf-16-le"), None),
        ("cat\ndog".encode("utf-32"), None),
        (b'["cat", ', None),
    ],
)
def test_class_names_are_read_from_any_text_that_tells_its_encoding(
    tmp_path, content, names
):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    if names is None:
        with pytest.raises(ValueError):
            read_class_names(str(path))
    else:
        assert read_class_names(str(path)) == names


def test_class_names_that_stand_for_several_classes_are_said(tmp_path, capsys):
    (tmp_path / "names.txt").write_text("crane\ncat\ncrane\n")
    assert len(read_class_names(str(tmp_path / "names.txt"))) == 3
    assert "several classes are called crane" in capsys.readouterr().err


def test_predict_prints_a_name_that_is_not_utf8(root, capsys, monkeypatch):
    import io
    import sys

    import keras_cvt

    stages = (keras_cvt.StageConfig(8, 1, 1, 7, 4, 2),)
    keras_cvt.CvT(keras_cvt.CvTConfig(stages), classes=2).save(root / "m.keras")
    not_utf8(root / "train/a")
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["predict", str(root / "train"), "--model", str(root / "m.keras")]) == 0
    output.seek(0)
    assert r"\xff\xfe.png" in output.read()
