"""An extension of Griffe, which reads the docstrings for the reference.

Griffe reads the source without running it. So it takes a function that another function
makes, such as `keras_cvt.CvT13`, for a constant. It knows some headings in other words
than Keras and this package use, and no comments.
"""

import importlib
import inspect
import re
import textwrap
from pathlib import Path

import griffe

# A heading of the docstrings -> Griffe's heading, and the title that is shown.
HEADINGS = {
    "Call arguments": "Other Parameters: Call arguments:",
    "Example": "Examples: Example:",
}


class Docstrings(griffe.Extension):
    """Describe functions that other functions make, and translate headings."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        """Replace the public constants of a package that are functions."""
        package = importlib.import_module(pkg.path)
        for name in pkg.exports or ():
            value = getattr(package, str(name))
            if not inspect.isfunction(value):
                continue
            module = pkg[value.__module__.removeprefix(f"{pkg.path}.")]
            if module[value.__name__].is_attribute:
                inspected = griffe.inspect(
                    module.name,
                    filepath=Path(module.filepath),
                    parent=module.parent,
                    docstring_parser="google",
                )
                function = inspected[value.__name__]
                _translate(function.docstring)
                module.set_member(value.__name__, function)

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Translate a docstring, or take the comment above a constant as one."""
        if isinstance(obj, griffe.Attribute) and obj.docstring is None:
            obj.docstring = _comment_above(obj)
        _translate(obj.docstring)


def _translate(docstring: griffe.Docstring | None) -> None:
    if docstring is None:
        return
    text = docstring.value
    for ours, theirs in HEADINGS.items():
        text = re.sub(rf"^{ours}:$", theirs, text, flags=re.M)
    # A class has no annotation of what its call returns.
    of_class = isinstance(docstring.parent, griffe.Class)
    plain = ("Reference", "Returns") if of_class else ("Reference",)
    for heading in plain:
        section = re.compile(rf"^{heading}:\n((?:    .*\n|\n)+)", re.M)
        if match := section.search(f"{text}\n"):
            words = f"**{heading}:** {textwrap.dedent(match[1]).strip()}\n\n"
            text = text[: match.start()] + words + text[match.end() :]
    docstring.value = text.strip()


def _comment_above(attribute: griffe.Attribute) -> griffe.Docstring | None:
    if not isinstance(attribute.parent, griffe.Module) or not attribute.lineno:
        return None
    lines = attribute.parent.source.splitlines()[: attribute.lineno - 1]
    comment: list[str] = []
    while lines and lines[-1].startswith("# "):
        comment.insert(0, lines.pop().removeprefix("# "))
    if not comment:
        return None
    return griffe.Docstring(
        "\n".join(comment), parent=attribute, lineno=attribute.lineno, parser="google"
    )
