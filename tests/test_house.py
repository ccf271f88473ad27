"""The budget that every file keeps: short files, short functions, words for what is public."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "rlhf_forge"
FILES = sorted(SOURCE.rglob("*.py"))
MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 300, 60
DRAWERS = {"utils.py", "util.py", "common.py", "base.py", "helpers.py", "misc.py"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
in_every_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix()
)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def public(nodes: list[ast.stmt]) -> Iterator[Definition]:
    """Functions and classes that others may use; a method that overrides has the words above."""
    for node in nodes:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        if not any(ast.unparse(decorator) == "override" for decorator in node.decorator_list):
            yield node
        if isinstance(node, ast.ClassDef):
            yield from public(node.body)


@in_every_file
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES_OF_A_FILE


@in_every_file
def test_a_function_is_short(path: Path) -> None:
    functions = (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef))
    long = {f.name: body_lines(f) for f in functions if body_lines(f) > MOST_LINES_OF_A_FUNCTION}
    assert not long


@in_every_file
def test_all_that_is_public_says_what_it_is(path: Path) -> None:
    tree = tree_of(path)
    assert ast.get_docstring(tree)
    assert not [node.name for node in public(tree.body) if not ast.get_docstring(node)]


def test_there_is_no_drawer_for_what_has_no_place() -> None:
    assert not [path for path in FILES if path.name in DRAWERS]


def test_every_name_at_the_top_has_its_floor() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [floors] = [c for c in contracts["contracts"] if c["name"] == "floors"]
    placed = {name for floor in floors["layers"] for name in floor.split(" | ")}
    modules = {path.stem for path in SOURCE.glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert placed == modules | packages
