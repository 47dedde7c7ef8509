"""Atomic writes: complete or not at all, and nothing left behind after a kill."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from keras_cvt._utils import files

HANG = """
import sys, time
from pathlib import Path
from keras_cvt._utils import files
with files.staged(Path(sys.argv[1])) as path:
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def temporary(folder):
    return [path.name for path in folder.glob(files.TEMPORARY + "*")]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.staged(path) as written:
        written.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert not temporary(tmp_path)


def test_a_folder_replaces_the_old_one_unless_it_is_merged(tmp_path):
    path = tmp_path / "folder"
    for merge, kept in ((False, []), (True, ["b"])):
        path.mkdir(exist_ok=True)
        (path / "b").write_text("b")
        with files.staged(path, merge=merge) as written:
            written.mkdir()
            (written / "a").write_text("a")
        assert sorted(p.name for p in path.iterdir()) == ["a", *kept]


def test_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "folder"

    def write_often(writer):
        for turn in range(40):
            with files.staged(path) as written:
                written.mkdir()
                for name in "abc":
                    (written / name).write_text(f"{writer} {turn}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_often, range(4)))  # raises what a writer raises
    assert len({file.read_text() for file in path.iterdir()}) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_companions_of_a_file_come_along(tmp_path):
    with files.staged(tmp_path / "model.xml") as written:
        written.write_text("xml")
        written.with_suffix(".bin").write_text("bin")
    assert (tmp_path / "model.bin").read_text() == "bin"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks and signals")
def test_what_a_kill_leaves_is_removed_and_a_running_process_is_not_disturbed(tmp_path):
    def start(name):
        process = subprocess.Popen(
            [sys.executable, "-c", HANG, str(tmp_path / name)],
            stdout=subprocess.PIPE,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        assert process.stdout.readline() == b"writing\n"
        return process

    killed, running = start("killed"), start("running")
    try:
        assert len(temporary(tmp_path)) == 2
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        files.write_text(tmp_path / "next", "content")
        assert len(temporary(tmp_path)) == 1
    finally:
        running.kill()
        running.wait()
    files.write_text(tmp_path / "next", "content")
    assert not temporary(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["next"]
