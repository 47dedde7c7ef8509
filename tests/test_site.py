"""The documentation builds without a warning, is whole and needs no other site."""

import argparse
import html.parser
import importlib
import pkgutil
import re
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import keras_cvt
from keras_cvt.cli import _parser

pytest.importorskip("mkdocs", reason="needs the extra [docs]")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
figures = importlib.import_module("figures")
generate = importlib.import_module("generate")


class Page(html.parser.HTMLParser):
    """The anchors, links and loaded files of a page."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loaded = set(), [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and "href" in values:
            self.loaded.append(values["href"])
        elif "src" in values:
            self.loaded.append(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


@pytest.fixture(scope="module")
def inventory(site):
    """The names that the reference documents."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split()[0] for line in lines}


def public():
    """Return every public name and what it is: those in an `__all__`."""
    found = {}
    modules = [keras_cvt]
    for info in pkgutil.iter_modules(keras_cvt.__path__, "keras_cvt."):
        short = info.name.rpartition(".")[2]
        if not short.startswith("_") and short not in generate.INTERNAL:
            modules.append(importlib.import_module(info.name))
    for module in modules:
        for name in getattr(module, "__all__", ()):
            found[f"{module.__name__}.{name}"] = getattr(module, name)
    return found


def test_every_public_name_is_in_the_reference(inventory):
    documented = {id(value) for path, value in public().items() if path in inventory}
    missing = [
        path
        for path, value in public().items()
        if id(value) not in documented
        and not (
            isinstance(value, type(keras_cvt)) and path in generate.public_modules()
        )
    ]
    assert len(documented) > 60
    assert missing == []


def test_the_modules_without_all_that_are_listed_have_the_listed_names(inventory):
    names = {
        f"keras_cvt.{module}.{name}"
        for module, listed in generate.MODULES.items()
        for name in listed
    }
    assert names - inventory == set()


def test_every_command_and_option_is_on_the_page_of_the_command_line(site):
    text = Page(site / "reference/command_line.html").text
    for name, command in generate._commands(_parser()).choices.items():
        section = text.split(f'id="keras-cvt-{name}"')[1].split("<h2")[0]
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction):
                for option in action.option_strings or [action.metavar or action.dest]:
                    assert option in section, f"{name} {option}"


def test_every_link_leads_to_a_page_and_an_anchor(site, pages):
    broken, checked = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            if not parts.path:
                target = path
            checked += 1
            anchors = pages[target].anchors if target in pages else set()
            if not target.exists() or (
                parts.fragment and unquote(parts.fragment) not in anchors
            ):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert checked > 500
    assert broken == []


def test_no_page_loads_anything_from_another_site(site, pages):
    loaded = {link for page in pages.values() for link in page.loaded}
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    loaded |= {
        url for text in styles for url in re.findall(r"url\((https?:.*?)\)", text)
    }
    assert {link for link in loaded if urlsplit(link).netloc} == set()


def test_every_picture_has_words_for_those_who_do_not_see_it(pages):
    for page in pages.values():
        assert re.findall(r'<img(?![^>]*alt="[^"]+)', page.text) == []


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_figures_are_what_the_code_draws(name):
    """`python docs/figures.py` writes them again."""
    saved = (figures.IMAGES / name).read_text(encoding="utf-8")
    assert saved == figures.FIGURES[name]()
