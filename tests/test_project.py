"""The files for contributors and releases say what is true of the project."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: path for path in (GITHUB / "workflows").glob("*.yml")}
FORMS = [p for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if p.stem != "config"]
by_workflow = pytest.mark.parametrize("name", sorted(WORKFLOWS))


def workflow(name):
    # YAML 1.1 reads the key `on` as true.
    text = WORKFLOWS[name].read_text()
    return yaml.safe_load(re.sub(r"^on:", '"on":', text, flags=re.M))


def steps(name):
    return [step for job in workflow(name)["jobs"].values() for step in job["steps"]]


@by_workflow
def test_a_workflow_runs_targets_of_the_makefile_only(name):
    makefile = (ROOT / "Makefile").read_text()
    commands = [step["run"] for step in steps(name) if "run" in step]
    for command in commands:
        program, target, *_ = command.split()
        assert program == "make", command
        assert re.search(rf"^{target}:", makefile, re.M), command


@by_workflow
def test_every_action_is_pinned_to_a_commit(name):
    lines = re.findall(r"uses: (.*)", WORKFLOWS[name].read_text())
    for line in lines:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", line), line


@by_workflow
def test_a_workflow_may_write_only_where_a_job_says_so(name):
    assert workflow(name)["permissions"] == {"contents": "read"}


def test_continuous_integration_runs_what_the_script_runs():
    script = (ROOT / ".ci" / "run").read_text()
    commands = re.findall(r"^make .*$", script, re.M)
    assert commands
    assert [step["run"] for step in steps("ci") if "run" in step] == commands


def test_a_release_is_tested_on_every_declared_python_and_has_no_password():
    release = workflow("release")
    pythons = release["jobs"]["test"]["strategy"]["matrix"]["python"]
    declared = (ROOT / "pyproject.toml").read_text()
    assert pythons == re.findall(
        r'"Programming Language :: Python :: (3\.\d+)"', declared
    )
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "test" and release["jobs"]["test"]["needs"] == "build"
    assert "secrets." not in WORKFLOWS["release"].read_text()


def test_a_tag_of_another_version_is_refused():
    done = subprocess.run(["make", "-C", ROOT, "check-tag", "TAG=v0.0.0"])
    assert done.returncode != 0


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_requires(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"] and form["body"]
    fields = [each for each in form["body"] if each["type"] != "markdown"]
    names = [each["id"] for each in fields]
    assert len(set(names)) == len(names)
    for each in form["body"]:
        assert each["type"] in ("markdown", "textarea", "input", "dropdown")
        assert each["attributes"].get("label") or each["type"] == "markdown"


def test_bugs_and_wrong_numbers_are_asked_for_versions_and_the_reference():
    forms = {path.stem: path.read_text() for path in FORMS}
    assert set(forms) == {"bug", "feature", "wrong_numbers"}
    assert "keras-cvt --version" in forms["bug"]
    assert "id: reference" in forms["wrong_numbers"]


def test_the_citation_names_the_software_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["type"] == "software" and citation["license"] == "MIT"
    (paper,) = citation["references"]
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Wu", "Xiao", "Codella", "Liu", "Dai", "Yuan", "Zhang"]
    assert paper["title"] == "CvT: Introducing Convolutions to Vision Transformers"
    assert paper["url"] in (ROOT / "README.md").read_text() and paper["year"] == 2021
