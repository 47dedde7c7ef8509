"""The order of the package's modules: each imports only from those above it."""

import ast
import graphlib
from pathlib import Path

import keras_cvt

ROOT = Path(keras_cvt.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def statements(tree):
    """Walk a module, functions included, but not what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from statements(node)


def imported(path):
    """Return the modules of the package that a file imports, anywhere in it."""
    names = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
            names.add(node.module)
    return names & set(MODULES)


def packages(module):
    """Return the packages whose own code an import of a module runs."""
    parts = module.split(".")
    return {".".join(parts[:n]) for n in range(2, len(parts))}


def test_no_module_leads_back_to_itself_not_even_by_a_lazy_import():
    graph = {}
    for module, path in MODULES.items():
        names = imported(path)
        names |= {package for name in names for package in packages(name)}
        # A package may import its modules, and they each other.
        graph[module] = names - packages(module) - {module, "keras_cvt"}
    assert len(graph) > 50
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle
