"""The parts of the documentation that are made from the code and from other files.

- the reference: a page for each public module, with the names in its `__all__`
- the command line, from its parsers
- the changelog, how to contribute and the measurements, which are files at the root
- tables of the published weights, in place of the mark `<!-- table of weights -->`
- the notebooks, and a table of them in place of `<!-- table of notebooks -->`

A new public package appears by itself. Nothing here knows the program that makes the
site; `docs/hooks.py` gives it these pages.
"""

import argparse
import importlib
import json
import pkgutil
import posixpath
import re
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import keras_cvt
from keras_cvt import profile, zoo
from keras_cvt.cli import _parser

ROOT = Path(__file__).parent.parent
# Public modules without `__all__`, and what is documented of each.
MODULES = {
    "conversion": (
        "convert",
        "load",
        "ConversionReport",
        "Converted",
        "ComparisonError",
        "TOLERANCE",
    ),
    "description": ("ModelDescription", "describe", "answers_of"),
    "profile": ("profile", "parameters", "macs", "PartProfile"),
    "zoo": (
        "find",
        "find_repo",
        "find_file",
        "known_files",
        "eval_transform",
        "WeightsRecord",
        "RepoFiles",
        "RecordError",
        "UnknownWeightsError",
        "MODELS",
        "WEIGHTS",
        "LICENSE",
    ),
}
BUILDERS = {"cvt13": "CvT13", "cvt21": "CvT21", "cvtw24": "CvTW24"}
# Packages that other programs do not import.
INTERNAL = ("cli", "repository")
# Files at the root -> pages.
INCLUDED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "measured/results.md",
    "benchmarks/history/with_avx512.md": "measured/with_avx512.md",
    "benchmarks/history/without_avx512.md": "measured/without_avx512.md",
}
PICTURES = {"benchmarks/scaling.png": "measured/scaling.png"}
NOTEBOOKS = "examples/notebooks"
COLAB = "https://colab.research.google.com/github"
COMMAND_LINE = "reference/command_line.md"


def public_modules() -> dict[str, tuple[str, ...]]:
    """Return the public modules and the names that are documented of each."""
    modules = {"keras_cvt": _names(keras_cvt)}
    for info in pkgutil.iter_modules(keras_cvt.__path__, "keras_cvt."):
        short = info.name.removeprefix("keras_cvt.")
        if short in MODULES:
            modules[info.name] = MODULES[short]
        elif info.ispkg and short not in INTERNAL and not short.startswith("_"):
            module = importlib.import_module(info.name)
            if hasattr(module, "__all__"):
                modules[info.name] = _names(module)
    return modules


def files() -> dict[str, str | bytes]:
    """Return the generated pages and files: path below docs/ -> content."""
    made: dict[str, str | bytes] = {COMMAND_LINE: command_line()}
    shown: dict[int, str] = {}
    for name, members in public_modules().items():
        made[f"reference/{name}.md"] = reference(name, members, shown)
    for source, page in INCLUDED.items():
        made[page] = included(source)
    for source, page in PICTURES.items():
        made[page] = (ROOT / source).read_bytes()
    for notebook in _notebooks():
        made[f"notebooks/{notebook.name}"] = notebook.read_bytes()
    return made


def reference_navigation() -> list[dict[str, str]]:
    """Return the entries of the reference in the navigation."""
    pages = [{name: f"reference/{name}.md"} for name in public_modules()]
    return [{"Command line": COMMAND_LINE}, *pages]


def reference(name: str, members: tuple[str, ...], shown: dict[int, str]) -> str:
    """Return the page of a module.

    Args:
        name: The module.
        members: The names to document.
        shown: Id of an object -> where it was documented. It is extended, so that
            nothing is documented twice.
    """
    module = importlib.import_module(name)
    lines = [f"# {name}", "", module.__doc__ or "", ""]
    for member in members:
        value = getattr(module, member)
        path = f"{name}.{member}"
        # Small constants, such as a text, may be one object.
        if callable(value) and id(value) in shown:
            other = shown[id(value)]
            lines += [f"## {member}", "", f"See [`{other}`][{other}]."]
        else:
            shown[id(value)] = path
            lines += [f"::: {path}", "    options:", "      heading_level: 2"]
            lines += [f"      heading: {member}", f"      toc_label: {member}"]
        lines.append("")
    return "\n".join(lines)


def command_line() -> str:
    """Return the page of the command line."""
    commands = _commands(_parser())
    helps = {each.dest: each.help for each in commands._choices_actions}
    lines = [
        "# Command line",
        "",
        "`keras-cvt COMMAND --help` prints what stands here. `python -m keras_cvt.cli` "
        "is the same program, without its quick help. `keras-cvt` keeps back "
        "TensorFlow's log of its start, unless `TF_CPP_MIN_LOG_LEVEL` is 0.",
        "",
    ]
    for name, command in commands.choices.items():
        lines += [f"## keras-cvt {name}", "", f"{_sentence(helps[name])}", ""]
        lines += ["```text", _usage(command), "```", ""]
        lines += [_argument(command, action) for action in command._actions[1:]]
        epilog = _epilog(command)
        lines += ["", epilog, ""] if epilog else [""]
    return "\n".join(lines)


def included(source: str) -> str:
    """Return a file at the root as a page, with links that work there."""
    text = (ROOT / source).read_text(encoding="utf-8")
    page = INCLUDED[source]
    pages = INCLUDED | PICTURES

    def relink(match: re.Match[str]) -> str:
        mark, label, target = match.groups()
        if re.match(r"\w+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if path.startswith("docs/"):
            place = path.removeprefix("docs/")
        elif path in pages:
            place = pages[path]
        else:
            return label  # a file that is not part of the site
        link = posixpath.relpath(place, posixpath.dirname(page) or ".")
        return f"{mark}[{label}]({link}{'#' + anchor if anchor else ''})"

    text = re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", relink, text)
    # Anchors without the date, so that links outlive the next measurement.
    return re.sub(r"^(#+ )(.*) \([\d-]{10}\)$", _anchor, text, flags=re.M)


def fill(markdown: str, repo_url: str | None = None) -> str:
    """Return a page with its marks replaced by tables.

    Args:
        markdown: The page.
        repo_url: Address of the repository on GitHub, or None if it has none.
    """
    notebooks = notebooks_table(repo_url)
    markdown = markdown.replace("<!-- table of notebooks -->", notebooks)
    return markdown.replace("<!-- table of weights -->", weights_table())


def notebooks_table(repo_url: str | None) -> str:
    """Return the table of the notebooks: title, what each does, and where to open it.

    Colab opens notebooks that are on GitHub by their address there.
    """
    rows = [["notebook", "what it does"]]
    for path in _notebooks():
        first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
        title, _, about = "".join(first["source"]).removeprefix("# ").partition("\n\n")
        rows.append([f"[{title}](notebooks/{path.name})", about])
        if repo_url:
            repo = urlsplit(repo_url).path.strip("/")
            place = f"{COLAB}/{repo}/blob/main/{NOTEBOOKS}/{path.name}"
            rows[-1].append(f"[open in Colab]({place})")
    width = len(rows[-1])
    rows[0] += [""] * (width - 2)
    rows.insert(1, ["---"] * width)
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join(lines)


def weights_table() -> str:
    """Return the table of the published weights."""
    tags: dict[zoo.WeightsRecord, list[str]] = {}
    for name, record in zoo.list_weights().items():
        tags.setdefault(record, []).append(f'`"{name.partition("/")[2]}"`')
    lines = [
        "| `weights=` | size | parameters | GMACs | top-1 / top-5 % | trained on |",
        "|---|---|---|---|---|---|",
    ]
    for record, names in tags.items():
        config = zoo.MODELS[record.model]
        height, width = record.eval_transform.image_size
        million = profile.parameters(config) / 1e6
        billion = profile.macs(config, height, width) / 1e9
        cells = [
            f"{BUILDERS[record.model]} {' or '.join(names)}",
            f"{height}",
            f"{million:.1f}&nbsp;M",
            f"{billion:.1f}",
            f"{record.top1:.2f}&nbsp;/&nbsp;{record.top5:.2f}",
            "ImageNet-22k, then 1k" if "22k" in record.tag else "ImageNet-1k",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _notebooks() -> list[Path]:
    return sorted((ROOT / NOTEBOOKS).glob("*.ipynb"))


def _names(module: ModuleType) -> tuple[str, ...]:
    names = [
        n for n in module.__all__ if not isinstance(getattr(module, n), ModuleType)
    ]
    return tuple(names)


def _anchor(heading: re.Match[str]) -> str:
    words = re.findall(r"\w+", heading[2].lower())
    return f"{heading[0]} {{ #{'-'.join(words)} }}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _commands(parser):
    """Return the action of a parser that holds its commands."""
    return next(
        action
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )


def _usage(command):
    formatter = argparse.HelpFormatter(command.prog, width=76)
    groups = command._mutually_exclusive_groups
    formatter.add_usage(None, command._actions, groups, prefix="")
    return formatter.format_help().strip()


def _argument(command, action):
    formatter = argparse.HelpFormatter(command.prog)
    spelled = formatter._format_action_invocation(action)
    return f"- `{spelled}`: {_mark_options(formatter._expand_help(action))}"


def _mark_options(text):
    """Set the options in a text as code."""
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text)


def _epilog(command):
    """Return what the help of a command ends with; some make it for the occasion."""
    command.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=10**6)
    last = command.format_help().rstrip().split("\n\n")[-1]
    return "" if re.match(r"[\w ]+:\n", last) else _mark_options(last)
