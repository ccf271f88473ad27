"""docs/ppo.md names files, functions, keys and tests: all of them are there."""

import ast
import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from rlhf_forge.modules.settings import ObjectiveSettings, RolloutSettings, UpdateSettings

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "ppo.md").read_text()
ITEMS = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
OPTIONS = PAGE.partition("|---|---|---|\n")[2].splitlines()
NAMED = sorted(set(re.findall(r"[\w/]+\.py(?:::[\w.]+)?", PAGE)))
GROUPS = {"rollout": RolloutSettings, "objective": ObjectiveSettings, "updates": UpdateSettings}
KEYS = {f"{group}.{field.name}" for group, kind in GROUPS.items() for field in fields(kind)}


def place(path: str) -> Path:
    """Of a file as the page names it: tests from the root, all others in the package."""
    return ROOT / path if path.startswith("tests/") else ROOT / "src" / "rlhf_forge" / path


@cache
def defined(path: Path) -> set[str]:
    """Functions and classes of a file, methods with their class."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (part for part in node.body if isinstance(part, ast.FunctionDef))
            names |= {f"{node.name}.{method.name}" for method in methods}
    return names


@pytest.mark.parametrize("name", NAMED)
def test_what_the_page_names_is_there(name: str) -> None:
    path, _, inside = name.partition("::")
    assert place(path).is_file()
    assert not inside or inside in defined(place(path))


def test_there_are_26_items_each_with_its_code_and_its_tests() -> None:
    assert [item.partition(".")[0] for item in ITEMS] == [str(n) for n in range(1, 27)]
    for item in ITEMS:
        heading, _, text = item.partition("\n")
        assert re.search(r": done(, for one process|; [\w ]+ refused)?$", heading)
        assert ("refused" in heading) == ("\nRefused: " in text)
        code, tests = re.findall(r"^- (?:code|tests): ((?:.+\n)(?:  .+\n)*)", text, re.MULTILINE)
        assert "::" in code
        assert "tests/" not in code
        assert all(name.startswith("`tests/") for name in re.split(r",\s+", tests.strip()))


def test_every_key_named_is_one_of_ppo() -> None:
    keys = re.findall(rf"`((?:{'|'.join(GROUPS)})\.(?!py\b)\w+)", PAGE)
    assert set(keys) == KEYS


def test_every_key_has_its_row_among_the_options_and_a_test() -> None:
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in OPTIONS]
    assert sorted(key.strip("`") for _, key, _ in rows) == sorted(KEYS)
    assert all(re.fullmatch(r"`tests/[\w/.]+::test_\w+`", test) for _, _, test in rows)
