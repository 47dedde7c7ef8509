"""The examples of README.md and of docs/, and the surroundings in which they run.

The published networks are replaced by small ones. A server on the loopback serves their
weights as the Hub would, and only two of them are released. The recipe "photos" trains
for one step on small images. Everything else is real: the files, the client of the Hub,
the converters.
"""

import contextlib
import dataclasses
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import simplified
from hub_client import loopback
from image_folders import write_image

import keras_cvt
from keras_cvt import CvTConfig, StageConfig, deploy, training, zoo
from keras_cvt.checkpoints import save_checkpoint
from keras_cvt.cli import main
from keras_cvt.hub import releasing

ROOT = Path(__file__).parent.parent
CHECKPOINTS = ROOT / "tests" / "data" / "checkpoints"
# transformers builds stage i only if it has more than i blocks.
SMALL = CvTConfig(
    stages=(
        StageConfig(8, 1, 1, 7, 4, 2),
        StageConfig(16, 2, 2, 3, 2, 1),
        StageConfig(16, 3, 2, 3, 2, 1, cls_token=True),
    )
)
RELEASED = tuple(record for record in zoo.WEIGHTS if record.tag == "imagenet")
CLASSES = ("daisy", "dandelion", "rose", "sunflower", "tulip")


def blocks(text):
    """Return each block of a document: its language, first line number and text."""
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        line = text.count("\n", 0, match.start(2)) + 1
        found.append((match[1], line, match[2]))
    return found


def commands(text):
    """Return the commands of a shell block as lists of words, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def shell_commands(text):
    """Return the commands of all shell blocks of a document."""
    return [
        words
        for language, _, block in blocks(text)
        if language == "bash"
        for words in commands(block)
    ]


def listed(words, not_run):
    """Return the entry of `not_run` that a command begins with, or None."""
    return next(
        (key for key in not_run if words[: len(key.split())] == key.split()), None
    )


def indented_blocks(text):
    """Return the lines that Markdown takes for a block without a language."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    # The text of a note, which is indented too.
    prose = re.sub(r"^!!! .*\n((?:    .*\n|\n)+)", "", prose, flags=re.M)
    return re.findall(r"^(?: {4}|\t)\S.*$", prose, re.M)


def run(path, not_run, monkeypatch):
    """Run the blocks of a document, in their order and in one namespace.

    So a reader would run them. `not_run` begins the commands that no test can run.
    """
    namespace = {"__name__": path.stem}
    for language, line, text in blocks(path.read_text(encoding="utf-8")):
        if language == "python":
            # So that a traceback names the document's line.
            code = compile("\n" * (line - 1) + text, path, "exec")
            exec(code, namespace)
        elif language == "bash":
            for words in commands(text):
                if not listed(words, not_run):
                    run_command(words, monkeypatch)


def run_command(words, monkeypatch):
    program, *arguments = words
    if program == "keras-cvt":
        assert main(arguments) == 0, shlex.join(words)
        return
    assert program == "python", f"This command is not known: {shlex.join(words)}"
    path = ROOT / arguments[0]
    monkeypatch.setattr(sys, "argv", [str(path), *arguments[1:]])
    monkeypatch.syspath_prepend(path.parent)
    runpy.run_path(str(path), run_name="__main__")


@contextlib.contextmanager
def surroundings(folder, monkeypatch):
    """Work in a folder with the files that the examples read; yield the Hub."""
    for name in zoo.MODELS:
        monkeypatch.setitem(zoo.MODELS, name, SMALL)
    short = {"epochs": None, "steps": 1, "warmup_epochs": 0, "image_size": 32}
    short = dataclasses.replace(training.FINE_TUNING["photos"], **short)
    monkeypatch.setitem(training.FINE_TUNING, "photos", short)
    monkeypatch.chdir(folder)
    write_files()
    with loopback(folder / "caches", monkeypatch) as server:
        write_published(server, folder / "published")
        released = SimpleNamespace(**{**vars(zoo), "WEIGHTS": RELEASED})
        monkeypatch.setattr(releasing, "zoo", released)
        yield server


def write_published(server, folder):
    """Serve small networks in the place of all published weights."""
    for record in zoo.WEIGHTS:
        model = keras_cvt.CvT(SMALL, activation="gelu")
        model.eval_transform = record.eval_transform
        save_checkpoint(model, folder / record.repo, layout="transformers")
        saved = (folder / record.repo).iterdir()
        server.repos[record.repo] = {path.name: path.read_bytes() for path in saved}


def write_files():
    """Write the files that the examples read into the working directory."""
    for i, path in enumerate(("photo.jpg", "photos/0.jpg", "photos/1.jpg")):
        write_image(Path(path), seed=i, size=(320, 240))
    for split, count in (("train", 16), ("validation", 2)):
        for name in CLASSES:
            for i in range(count):
                write_image(Path("flowers", split, name, f"{i}.png"), seed=i)
    model = keras_cvt.CvT(
        SMALL, include_preprocessing=False, classifier_activation=None
    )
    save_checkpoint(model, "checkpoint.pth")
    save_checkpoint(model, "CvT-13-224x224-IN-1k.pth")
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    np.savez("outputs.npz", input=images, logits=model.predict(images, verbose=0))
    import torch

    meta = {"kwargs": {"s3_depth": 4}, "num_classes": 10, "seed": 0}
    state = simplified.state_dict(meta)
    torch.save({key: torch.tensor(array) for key, array in state.items()}, "cvt.pt")


def write_other_layouts():
    """Write checkpoints of other libraries, and their networks, likewise."""
    Path("my_tfcvt").mkdir()
    shutil.copy(CHECKPOINTS / "hf_tf" / "tf_model.h5", "my_tfcvt")
    shutil.copy(CHECKPOINTS / "hf_pt" / "config.json", "my_tfcvt")
    shutil.copy(CHECKPOINTS / "cvt_tensorflow.h5", ".")
    config = CvTConfig.from_transformers("my_tfcvt/config.json")
    config.with_overrides(activation="quick_gelu").to_json("config.json")


def unknown_make_targets(text):
    """Return the targets of make in a document that the Makefile does not have."""
    makefile = (ROOT / "Makefile").read_text()
    targets = {
        word
        for words in shell_commands(text)
        if words[0] == "make"
        for word in words[1:]
        if "=" not in word
    }
    return {t for t in targets if not re.search(rf"^{t}:", makefile, re.M)}


def extras(text):
    """Return the optional dependencies that a document names."""
    named = re.findall(r"\[([a-z, -]+)\](?!\()", text)
    return {extra.strip() for names in named for extra in names.split(",")}


def declared_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


def check_table_of_formats(text):
    """Compare a document's table of formats with the records."""
    lines = re.findall(r'^\| `".*', text, re.M)
    rows = [[cell.strip(' `"') for cell in line.split("|")[1:4]] for line in lines]
    found = {
        (name, quantization or None)
        for name, quantizations, _ in rows
        for quantization in ("", *re.findall(r"\w+", quantizations))
    }
    variants = deploy.formats.variants().values()
    assert found == {(each.format.name, each.quantization) for each in variants}
    # The extra that installs a runtime has the format's name.
    needed = {name: needs.strip("[]") for name, _, needs in rows}
    assert needed == {
        record.name: record.name if record.runtime else ""
        for record in deploy.formats.FORMATS.values()
    }


def check_paths(text):
    """Check the paths in a document's section "Where things are"."""
    section = text.split("## Where things are")[1].split("\n## ")[0]
    paths = re.findall(r"`([\w/]+(?:/|\.py))`", section)
    assert len(paths) > 10
    for path in paths:
        inside = (ROOT / "keras_cvt" / path, ROOT / path)
        assert any(each.exists() for each in inside), path
