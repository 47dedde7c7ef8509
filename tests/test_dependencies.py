"""The declared bounds of the dependencies, and the versions that are tested."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def test_the_oldest_versions_that_are_tested_are_the_declared_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"]]
    declared += project["optional-dependencies"]["tensorflow-cpu"]
    bounds = {
        requirement.name: [Version(s.version) for s in requirement.specifier]
        for requirement in map(Requirement, declared)
    }
    bounds.pop("importlib_resources")  # any release will do
    assert all(len(versions) == 1 for versions in bounds.values()), bounds

    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    tested = [Requirement(line) for line in lines if line and line[0] != "#"]
    pins = {
        r.name: Version(s.version)
        for r in tested
        for s in r.specifier
        if s.operator == "=="
    }
    for name, (bound,) in bounds.items():
        # The bound 1.26 stands for its last correction, 1.26.4.
        assert pins[name].release[: len(bound.release)] == bound.release, name
