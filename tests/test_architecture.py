"""Rules for the source tree: imports run downwards, without circles, no file is long, and all is documented."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tfrecords", "components", "pipeline")  # from the lowest layer to the highest
LONGEST = 400
WHOLE_TABLES = {"pipeline/flags.py"}  # which read best in one piece
"""Lines of a file; it is hard to find one's way in longer ones."""
QUESTIONS = {"How", "What", "When", "Where", "Whether", "Which", "Who", "Why"}
"""First words that no docstring has: a function's is a verb, a class's or module's is a noun."""
HEAVY = ("tensorflow", "keras", "matplotlib", "dask", "distributed", "tf2onnx", "onnx")
"""Packages that no module loads unless it needs them: they cost seconds and hundreds of megabytes."""
LOADS_HEAVY = (
    "components.training",
    "components.ctc.loss",
    "components.plots",
    "components.evaluation.plots",
    "components.evaluation.evaluate",
    "components.evaluation.transforms",
)


def _source_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def _module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_of(path): path for path in _source_files()}


def _imported(path: Path) -> set[str]:
    """The project's modules that a file imports, also inside functions and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(
                submodule if (submodule := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
            )
    return found & MODULES.keys()


IMPORTS = {module: _imported(path) for module, path in MODULES.items()}


def test_the_project_is_found():
    assert {"pipeline.main", "components.rejects", "tfrecords.shards"} <= MODULES.keys()
    assert "tfrecords.storage" in IMPORTS["tfrecords.shards"]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module):
    above = PACKAGES[PACKAGES.index(module.partition(".")[0]) + 1 :]
    assert not [name for name in IMPORTS[module] if name.partition(".")[0] in above]


def test_no_file_imports_itself_by_way_of_others():
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for name in sorted(IMPORTS[module]):
                visit(name, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_no_folder_imports_itself_by_way_of_others():
    """Folders are layers too: what lies in one knows nothing of what uses it."""
    folder_of = {
        module: module if path.name == "__init__.py" else module.rpartition(".")[0] for module, path in MODULES.items()
    }
    folders: dict[str, set[str]] = {}
    for module, names in IMPORTS.items():
        here = folder_of[module]
        # The face of a package, and what lies directly in `components`, are no rooms of their own.
        folders.setdefault(here, set()).update(folder_of[name] for name in names if folder_of[name] != here)
    for folder, names in folders.items():
        if folder in PACKAGES:
            continue
        for name in names - set(PACKAGES):
            assert folder not in folders[name], f"{folder} and {name} import each other"


@pytest.mark.parametrize("path", _source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_long(path):
    if str(path.relative_to(ROOT)) not in WHOLE_TABLES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize(
    "path",
    [*_source_files(), *sorted((ROOT / "benchmarks").glob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_what_begins_with_an_underscore_stays_in_its_file(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert not taken


@pytest.mark.parametrize("path", _source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_and_classes_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert ast.get_docstring(tree)
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize(
    "path",
    [*_source_files(), *sorted((ROOT / "benchmarks").glob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_docstring_begins_with_a_question(path):
    documented = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node)
    ]
    first_words = {(ast.get_docstring(node) or "").split()[0].rstrip(",:") for node in documented}
    assert not first_words & QUESTIONS


def test_heavy_packages_are_loaded_by_those_alone_that_need_them():
    light = [module for module in MODULES if not module.startswith(LOADS_HEAVY)]
    program = (
        "import importlib, sys\n"
        f"for name in {light!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
