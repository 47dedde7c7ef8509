"""Rules that the package's source keeps: which module may import or do what."""

import ast
import graphlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import keras_cvt

ROOT = Path(keras_cvt.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}
# Methods that Keras calls, as it does a callback's `on_...`. Keras has no types.
KERAS_METHODS = {
    "apply",
    "build",
    "call",
    "compute_metrics",
    "compute_output_shape",
    "compute_output_spec",
    "from_config",
    "get_config",
    "make_train_function",
    "update_step",
}


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def statements(tree):
    """Walk a module with its functions, without what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from statements(node)


def imported(path):
    """Return the names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in statements(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
            names.add(node.module)
    return names


def own_imports(path):
    return imported(path) & set(MODULES)


def packages(module):
    """Return the packages whose own code runs when a module is imported."""
    parts = module.split(".")
    return {".".join(parts[:n]) for n in range(2, len(parts))}


def calls(path):
    """Yield the calls in a file: the name of the function, and the node."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def texts(path):
    """Return the text constants of a file, without its docstrings."""
    docstrings = {
        id(node.value)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    return [
        node.value
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]


def places(holds):
    """Return the modules in which a condition holds for the file, and how often."""
    found = {name: holds(path) for name, path in MODULES.items()}
    return {name: count for name, count in found.items() if count}


def test_no_module_imports_itself_not_even_by_a_lazy_import():
    graph = {}
    for module, path in MODULES.items():
        names = own_imports(path)
        names |= {package for name in names for package in packages(name)}
        # A package may import its modules, and they may import each other.
        graph[module] = names - packages(module) - {module, "keras_cvt"}
    assert len(graph) > 50
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the cycle


def test_the_top_level_has_at_most_ten_modules():
    top_level = [path.name for path in ROOT.glob("*.py")]
    assert len(top_level) <= 10, top_level


def test_the_private_helpers_know_nothing_of_the_package():
    helpers = places(lambda path: path.parent.name == "_utils")
    assert len(helpers) > 3
    for name in helpers:
        others = own_imports(MODULES[name]) - {"keras_cvt._utils"}
        assert {o for o in others if not o.startswith("keras_cvt._utils.")} == set()


def test_no_layer_imports_a_backend():
    for name, path in MODULES.items():
        if name.startswith("keras_cvt.layers"):
            first = {module.split(".")[0] for module in imported(path)}
            assert not first & {"tensorflow", "jax", "torch"}, name


def test_only_the_description_finds_the_preprocessing_layer():
    def look_ups(path):
        return sum(
            function.endswith("get_layer")
            and ast.unparse(node.args[:1] or node.keywords) == "'preprocessing'"
            for function, node in calls(path)
        )

    assert sum(places(look_ups).values()) <= 2


def test_only_one_module_writes_under_a_temporary_name_and_renames():
    def renames(path):
        return sum(
            function in ("os.replace", "shutil.move")
            or function.endswith(".rename")
            or (function.startswith("tempfile.") and {"dir", "prefix"} <= words(node))
            for function, node in calls(path)
        )

    def words(node):
        return {word.arg for word in node.keywords}

    assert set(places(renames)) == {"keras_cvt._utils.files"}


def test_only_one_module_says_how_to_install_an_extra():
    def hints(path):
        return sum("pip install" in text for text in texts(path))

    assert set(places(hints)) == {"keras_cvt._utils.optional"}


def public_functions(tree, scope=""):
    for node in tree.body:
        if getattr(node, "name", "_").startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from public_functions(node, f"{scope}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield scope + node.name, node


def test_every_public_function_is_typed():
    untyped = []
    for module, path in MODULES.items():
        for name, node in public_functions(parsed(path)):
            if node.name in KERAS_METHODS or node.name.startswith("on_"):
                continue
            given = node.args
            named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            named += [each for each in (given.vararg, given.kwarg) if each]
            missing = [
                each.arg
                for each in named
                if each.annotation is None and each.arg not in ("self", "cls")
            ]
            setter = any(
                ast.unparse(d).endswith(".setter") for d in node.decorator_list
            )
            if node.returns is None and not setter:
                missing.append("return")
            if missing:
                untyped.append(f"{module}.{name}: {', '.join(missing)}")
    assert untyped == []


def test_type_checkers_are_told_that_the_package_has_types():
    assert (ROOT / "py.typed").is_file()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("cli_deploy", "cli.deploy"),
        ("downloads", "checkpoints.sources"),
        ("errors", "_utils.errors"),
        ("files", "_utils.files"),
        ("hub_files", "repository.client"),
        ("image_processors", "checkpoints.transformers_format"),
        ("plots", "_utils.plots"),
        ("tables", "_utils.tables"),
        ("validation", "_utils.validation"),
        ("weights", "checkpoints.sources"),
    ],
)
def test_a_module_of_version_0_1_0_is_found_under_its_old_name(old, new):
    with pytest.warns(DeprecationWarning, match=f"keras_cvt.{new}"):
        module = getattr(keras_cvt, old)
    assert module is sys.modules[f"keras_cvt.{new}"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'no_such_module'"):
        keras_cvt.no_such_module  # noqa: B018


def test_the_import_loads_neither_the_command_line_nor_a_converter():
    """Old names of modules must not import anything at start-up either."""
    code = (
        "import sys, keras_cvt\n"
        "late = ('keras_cvt.cli', 'ai_edge_litert', 'onnx', 'openvino', 'transformers',"
        " 'tensorflow_datasets')\n"
        "print([name for name in late if name in sys.modules])"
    )
    command = [sys.executable, "-W", "error::DeprecationWarning:keras_cvt", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stderr
