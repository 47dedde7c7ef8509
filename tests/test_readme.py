"""Every example of README.md runs, and what README says of records is true.

The published networks are replaced by small ones. A server on the loopback serves their
weights as the Hub would, and only two of them are released. The recipe "flowers" trains
for one step on small images. Everything else is real: the files, the client of the Hub,
the converters.
"""

import dataclasses
import re
import runpy
import shlex
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
README = (ROOT / "README.md").read_text(encoding="utf-8")
# transformers builds stage i only if it has more than i blocks.
SMALL = CvTConfig(
    stages=(
        StageConfig(8, 1, 1, 7, 4, 2),
        StageConfig(16, 2, 2, 3, 2, 1),
        StageConfig(16, 3, 2, 3, 2, 1, cls_token=True),
    )
)
CLASSES = ("daisy", "dandelion", "rose", "sunflower", "tulip")
# Shell commands that no test can run, by their first words, and why.
NOT_RUN = {
    "pip install": "downloads packages",
    "make": "creates an environment of its own; `make test` is what runs this test, "
    "and tests/test_examples.py runs the demo",
    "python examples/segment.py": "trains for minutes; tests/test_dense_examples.py "
    "runs it with fewer images",
    "python examples/detect.py": "likewise",
}
# What the examples write.
WRITTEN = (
    "all.png",
    "why.png",
    "cvt13.tflite",
    "cvt13_folder/saved_model.pb",
    "tuned/best.keras",
    "folder/config.json",
    "model.keras",
    "model.safetensors",
    "run/best.keras",
)


def blocks():
    """Return each block of README: its language, first line number and text."""
    found = []
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S):
        line = README.count("\n", 0, match.start(2)) + 1
        found.append((match[1], line, match[2]))
    return found


def commands(text):
    """Return the commands of a shell block as lists of words, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def not_run(words):
    """Return the entry of `NOT_RUN` that a command belongs to, or None."""
    return next(
        (key for key in NOT_RUN if words[: len(key.split())] == key.split()), None
    )


def run_command(words, monkeypatch):
    program, *arguments = words
    if program == "keras-cvt":
        assert main(arguments) == 0, shlex.join(words)
        return
    assert program == "python", f"README's command is not known: {shlex.join(words)}"
    path = ROOT / arguments[0]
    monkeypatch.setattr(sys, "argv", [str(path), *arguments[1:]])
    monkeypatch.syspath_prepend(path.parent)
    runpy.run_path(str(path), run_name="__main__")


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


def test_every_example_runs(tmp_path, monkeypatch, capsys):
    """In README's order and in one namespace, as a reader would run them."""
    for name in zoo.MODELS:
        monkeypatch.setitem(zoo.MODELS, name, SMALL)
    short = dataclasses.replace(training.FINE_TUNING["flowers"], steps=1, image_size=32)
    monkeypatch.setitem(training.FINE_TUNING, "flowers", short)
    two = tuple(record for record in zoo.WEIGHTS if record.tag == "imagenet")
    monkeypatch.chdir(tmp_path)
    write_files()
    namespace = {"__name__": "readme"}
    with loopback(tmp_path / "caches", monkeypatch) as server:
        write_published(server, tmp_path / "published")
        released = SimpleNamespace(**{**vars(zoo), "WEIGHTS": two})
        monkeypatch.setattr(releasing, "zoo", released)
        for language, line, text in blocks():
            if language == "python":
                # So that a traceback names README's line.
                code = compile("\n" * (line - 1) + text, ROOT / "README.md", "exec")
                exec(code, namespace)
            else:
                for words in commands(text):
                    if not not_run(words):
                        run_command(words, monkeypatch)
    for path in WRITTEN:
        assert Path(path).exists(), path
    pushed = {repo for repo in server.repos if repo.startswith("me/")}
    assert {"me/flowers", "me/cvt"} <= pushed and len(pushed) == 2 + len(two)
    assert server.private["me/flowers"]
    assert "photo.jpg" in capsys.readouterr().out


def test_every_block_has_a_language_that_the_test_runs():
    assert {language for language, _, _ in blocks()} == {"python", "bash"}
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
    assert re.findall(r"^(?: {4}|\t)\S.*$", prose, re.M) == []


def test_what_is_not_run_is_listed_and_nothing_else():
    shell = [
        c
        for language, _, text in blocks()
        if language == "bash"
        for c in commands(text)
    ]
    left_out = {key for words in shell if (key := not_run(words))}
    assert left_out == set(NOT_RUN)
    for words in shell:
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)


def test_the_extras_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"\[([a-z, -]+)\](?!\()", README)
    extras = {extra.strip() for names in named for extra in names.split(",")}
    assert len(extras) > 5
    assert extras <= set(project["optional-dependencies"])


def test_the_table_of_weights_is_that_of_the_records():
    rows = re.findall(
        r"^\| (CvT\w+) `\"(\w+)\"`.* \| (\d+) \| ([\d.]+) / ([\d.]+) \|", README, re.M
    )
    assert [
        (model.lower(), tag, int(size), float(top1), float(top5))
        for model, tag, size, top1, top5 in rows
    ] == [
        (r.model, r.tag, r.eval_transform.image_size[0], r.top1, r.top5)
        for r in zoo.WEIGHTS
    ]


def test_the_table_of_formats_is_that_of_the_records():
    lines = re.findall(r'^\| `".*', README, re.M)
    rows = [[cell.strip(' `"') for cell in line.split("|")[1:4]] for line in lines]
    found = {
        (name, quantization or None)
        for name, quantizations, _ in rows
        for quantization in ("", *re.findall(r"\w+", quantizations))
    }
    variants = deploy.formats.variants().values()
    assert found == {(each.format.name, each.quantization) for each in variants}
    # The extra that installs a runtime has the format's name.
    extras = {name: needs.strip("[]") for name, _, needs in rows}
    assert extras == {
        record.name: record.name if record.runtime else ""
        for record in deploy.formats.FORMATS.values()
    }


def test_links_and_paths_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    section = README.split("## Where things are")[1].split("\n## ")[0]
    paths = re.findall(r"`([\w/]+(?:/|\.py))`", section)
    assert links and len(paths) > 10
    for path in links:
        assert (ROOT / path).exists(), path
    for path in paths:
        inside = (ROOT / "keras_cvt" / path, ROOT / path)
        assert any(each.exists() for each in inside), path
