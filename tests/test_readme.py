"""Every example of README.md runs, and what README says of records is true.

`documented.py` says in what surroundings they run.
"""

import re

import documented
from documented import ROOT

from keras_cvt import zoo

README = (ROOT / "README.md").read_text(encoding="utf-8")
# Shell commands that no test can run, by their first words, and why.
NOT_RUN = {
    "pip install": "downloads packages",
    "make": "creates an environment of its own; `make test` is what runs this test, "
    "and tests/test_examples.py runs the demo",
}


def test_every_example_runs(tmp_path, monkeypatch, capsys):
    """In README's order and in one namespace, as a reader would run them."""
    with documented.surroundings(tmp_path, monkeypatch):
        documented.run(ROOT / "README.md", NOT_RUN, monkeypatch)
    assert "photo.jpg" in capsys.readouterr().out


def test_every_block_has_a_language_that_the_test_runs():
    languages = {language for language, _, _ in documented.blocks(README)}
    assert languages == {"python", "bash"}
    assert documented.indented_blocks(README) == []


def test_what_is_not_run_is_listed_and_nothing_else():
    shell = documented.shell_commands(README)
    left_out = {key for words in shell if (key := documented.listed(words, NOT_RUN))}
    assert left_out == set(NOT_RUN)
    assert documented.unknown_make_targets(README) == set()


def test_the_extras_exist():
    extras = documented.extras(README)
    assert extras <= documented.declared_extras()


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


def test_links_and_paths_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    for path in links:
        assert (ROOT / path).exists(), path
