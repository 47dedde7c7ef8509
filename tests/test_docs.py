"""Every example of docs/ and CONTRIBUTING.md runs, each page by itself."""

from pathlib import Path

import documented
import pytest
from documented import ROOT

import keras_cvt

DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "CONTRIBUTING.md"]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
TEXTS = [path.read_text(encoding="utf-8") for path in PAGES]
# Shell commands that no test can run, by their first words, and why.
NOT_RUN = {
    "pip install": "downloads packages",
    "make": "creates an environment of its own",
    "KERAS_BACKEND=tensorflow": "runs these tests",
    "KERAS_BACKEND=jax": "likewise",
    "python examples/segment.py": "trains for minutes; tests/test_dense_examples.py "
    "runs it with fewer images",
    "python examples/detect.py": "likewise",
    "python examples/train.py": "trains for an hour; tests/test_learning.py runs it",
    "python examples/serve.py": "runs until it is stopped; tests/serving runs it",
    "curl": "asks the server",
    "keras-cvt evaluate imagenet2012": "needs ImageNet",
    "keras-cvt evaluate imagenet_v2": "downloads a gigabyte",
}
# Page -> what its examples write.
WRITTEN = {
    "docs/guides/classify.md": ("flowers.png", "own.keras"),
    "docs/guides/fine_tune.md": (
        "config.json",
        "own.keras",
        "run/best.keras",
        "student/best.keras",
        "tuned/best.keras",
    ),
    "docs/guides/deploy.md": (
        "all.png",
        "cvt13.tflite",
        "cvt13_int8.tflite",
        "page/index.html",
    ),
    "docs/guides/migrate.md": (
        "folder/config.json",
        "model.keras",
        "model.safetensors",
    ),
    "docs/guides/scale.md": (
        "again.jsonl",
        "results.csv",
        "results.jsonl",
        "results.parquet",
        "shards",
    ),
    "docs/guides/publish.md": ("exports", "releases"),
    "docs/guides/explain.md": ("features.npz", "similar.png", "why.png"),
}
with_examples = pytest.mark.parametrize(
    "page",
    [
        pytest.param(path, id=name)
        for path, name, text in zip(PAGES, NAMES, TEXTS, strict=True)
        if any(
            language in ("python", "bash") for language, _, _ in documented.blocks(text)
        )
    ],
)


def write_tuned():
    """Write the model that the guide to fine-tuning trains."""
    model = keras_cvt.CvT(documented.SMALL, classes=len(documented.CLASSES))
    model.class_names = sorted(documented.CLASSES)
    Path("tuned").mkdir()
    model.save("tuned/best.keras")


@with_examples
def test_every_example_runs(page, tmp_path, monkeypatch):
    name = str(page.relative_to(ROOT))
    with documented.surroundings(tmp_path, monkeypatch) as server:
        documented.write_other_layouts()
        if name in ("docs/guides/classify.md", "docs/guides/explain.md"):
            write_tuned()
        documented.run(page, NOT_RUN, monkeypatch)
    for path in WRITTEN.get(name, ()):
        assert Path(path).exists(), path
    if name == "docs/guides/publish.md":
        assert {"me/flowers", "me/cvt"} <= set(server.repos)
        assert server.private["me/flowers"]


def test_every_block_has_a_language_and_every_page_that_writes_exists():
    for name, text in zip(NAMES, TEXTS, strict=True):
        languages = {language for language, _, _ in documented.blocks(text)}
        assert languages <= {"python", "bash"}, name
        assert documented.indented_blocks(text) == [], name
    assert set(WRITTEN) <= set(NAMES)


def test_what_is_not_run_is_listed_and_nothing_else():
    shell = [words for text in TEXTS for words in documented.shell_commands(text)]
    assert {
        key for words in shell if (key := documented.listed(words, NOT_RUN))
    } == set(NOT_RUN)
    assert [documented.unknown_make_targets(text) for text in TEXTS] == [set()] * len(
        TEXTS
    )


def test_the_extras_exist():
    extras = documented.extras("\n".join(TEXTS))
    assert len(extras) > 5
    assert extras <= documented.declared_extras()


def test_the_table_of_formats_is_that_of_the_records():
    documented.check_table_of_formats((DOCS / "guides/deploy.md").read_text())


def test_paths_lead_to_files():
    documented.check_paths((DOCS / "how_it_works.md").read_text())
