"""What README.md and docs/ say, held against the code: tags, commands, configs, data lines."""

import ast
import functools
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import import_module
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_forge.data.detection import detect
from rlhf_forge.data.format import Format
from rlhf_forge.data.formats import FORMATS
from rlhf_forge.data.loading import records_of
from rlhf_forge.errors import UserError
from rlhf_forge.parsing import parsed_call
from rlhf_forge.words import COMMANDS, PLAN, STAGES, form_of

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "rlhf_forge"
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "benchmarks" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
HELD_OUT = ("val", "test")
TRAINED_IN_PPO = ("policy", "value")
# No tag is as short as the unit tokens/s.
TAG = re.compile(r"[a-z_]+/[a-z_]{2,}")
BLOCKS = re.MULTILINE | re.DOTALL
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", BLOCKS)
# A page that gives lines of a config names the file they go into first.
NAMED_LINES = re.compile(r"^`(\w+\.yaml)`[^`]*?```yaml\n(.*?)```", BLOCKS)
ASSIGNED = re.compile(r"[A-Z_]+=")
OURS = (["python", "-m", "rlhf_forge"], ["rlhf-forge"])
# What a page may ask a person to type beside our own commands.
OTHERS = {"pip", "pytest", "tensorboard", "hf", "mv", "curl", "git", "cd", "source", "echo", "cat"}
OTHERS |= {"ruff", "mypy", "lint-imports", "export", "llm", "ls", "head", "torchrun", "srun"}
OTHERS |= {"cp", "docker", "ollama", "schemathesis", "systemctl", "vllm"}
# Lightning's command line still calls jsonargparse's instantiate by its old name.
OLD_NAME = "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"


def trees() -> dict[str, ast.Module]:
    files = [p for folder in ("modules", "callbacks") for p in (SOURCE / folder).glob("*.py")]
    return {path.stem: ast.parse(path.read_text()) for path in files}


def calls(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in names:
            yield node


def strings(tree: ast.AST) -> list[str]:
    return [str(n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant)]


def written_out(tree: ast.Module) -> set[str]:
    """Tags that stand in the source as they are, docstrings and error texts left out."""
    return {text for text in strings(tree) if TAG.fullmatch(text)}


def put_together(tree: ast.Module, known: set[str]) -> set[str]:
    """Tags that an f-string makes; the four ways there are, and no fifth."""
    tags: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        text = ast.unparse(node)[2:-1]
        if TAG.fullmatch(re.sub(r"\{.*?\}", "xx", text)) is None:
            continue
        if match := re.fullmatch(r"\{name\}/([a-z_]+)", text):
            tags |= {f"{name}/{match[1]}" for name in HELD_OUT}
        elif text == "time/{phase}":
            timed = [call for part in trees().values() for call in calls(part, "timed")]
            tags |= {f"time/{name}" for call in timed for name in strings(call)}
        elif text == "{role}/grad_norm":
            tags |= {f"{role}/grad_norm" for role in TRAINED_IN_PPO}
        elif text.startswith("{name}/{tag.split("):
            tags |= {f"{name}/{tag.split('/')[1]}" for name in HELD_OUT for tag in known}
        else:
            pytest.fail(f"a tag is put together in a way this test does not know: {text}")
    return tags


def held_out_in_ppo(tree: ast.Module) -> set[str]:
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    [objective] = [f for f in functions if f.name == "objective_metrics"]
    return {text for text in strings(objective) if TAG.fullmatch(text)}


def logged_tags() -> set[str]:
    found = trees()
    known = held_out_in_ppo(found["ppo_metrics"])
    return {t for tree in found.values() for t in written_out(tree) | put_together(tree, known)}


def test_metrics_md_names_every_tag_that_is_logged_and_no_other() -> None:
    rows = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == logged_tags()


def test_there_are_fewer_than_50_tags_not_counting_that_test_repeats_val() -> None:
    assert len({tag for tag in logged_tags() if not tag.startswith("test/")}) < 50


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCED.findall(page.read_text()) if language in languages]


def typed_lines(page: Path) -> Iterator[str]:
    """Lines to type: those behind a $ where a block has any, else all."""
    for block in blocks(page, "bash", "sh", "console"):
        lines = block.replace("\\\n", " ").splitlines()
        marked = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        yield from marked or [line for line in lines if line.strip()]


def commands(page: Path) -> Iterator[list[str]]:
    """Each command of a line as words, without what is set before it or where output goes."""
    for line in typed_lines(page):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in {";", "&&", "|", "||", "&"}:
                words.append(word)
                continue
            cut = next((at for at, w in enumerate(words) if w in {"<", ">", ">>"}), len(words))
            yield list(dropwhile(ASSIGNED.match, words[:cut]))
            words = []


def our_commands() -> list[list[str]]:
    """What stands behind ``python -m rlhf_forge``, on all pages, each once."""
    found = []
    for page in PAGES:
        for words in commands(page):
            for start in OURS:
                if words[: len(start)] == start and words[len(start) :] not in found:
                    found.append(words[len(start) :])
    return found


def all_commands() -> list[tuple[str, list[str]]]:
    return [(page.name, words) for page in PAGES for words in commands(page) if words]


@pytest.mark.parametrize(("page", "words"), all_commands())
def test_a_page_asks_to_type_nothing_unknown(page: str, words: list[str]) -> None:
    ours = any(words[: len(start)] == start for start in OURS)
    if not ours and words[0] in {"python", "python3"}:
        assert words[1] == "-m" or (ROOT / words[1]).is_file()
    else:
        assert ours or words[0] in OTHERS


@pytest.mark.filterwarnings(OLD_NAME)
@pytest.mark.parametrize("words", [w for w in our_commands() if w and w[0] not in STAGES])
def test_a_command_on_a_page_parses(words: list[str]) -> None:
    word, *rest = words
    if word in {"--help", "-h"}:
        return
    assert word in COMMANDS
    if word == PLAN:
        from rlhf_forge.commands.plan import asked_of

        assert asked_of(rest).keys  # those of fit, which are parsed with the lines of fit
        return
    name, rest = form_of(word, rest)
    function = getattr(import_module(f"rlhf_forge.commands.{name}"), name)

    @functools.wraps(function)
    def parsed(*args: Any, **settings: Any) -> int:
        return 0

    if "--help" not in rest:
        assert parsed_call(parsed, rest, word) == 0
    if word == "pipeline":
        assert (ROOT / rest[0] / "ppo.yaml").is_file()


def overlays(page: Path) -> Iterator[tuple[str, str]]:
    """YAML blocks to write into a file, with the shipped config that each goes after."""
    for block in blocks(page, "yaml"):
        if block.startswith("# serve.yaml\n"):
            continue  # no stage's; tests/serve reads it
        match = re.match(r"# after (\S+\.yaml)\n", block)
        assert match is not None, f"{page.name}: a yaml block does not say what it goes after"
        yield match[1], block


def stage_lines() -> list[list[str]]:
    from rlhf_forge.commands.plan import asked_of

    lines = [words for words in our_commands() if words]
    planned = [asked_of(words[1:]).keys for words in lines if words[0] == PLAN]
    return [words[1:] for words in lines if words[0] in STAGES] + planned


@pytest.mark.slow
@pytest.mark.filterwarnings(OLD_NAME)
@pytest.mark.parametrize("arguments", stage_lines())
def test_a_training_command_on_a_page_parses(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_forge.parsed_stage import parsed_stage

    for page in PAGES:
        for name, block in NAMED_LINES.findall(page.read_text()):
            (tmp_path / name).write_text(block)
    monkeypatch.chdir(tmp_path)
    parsed_stage(arguments)  # raises for a word it does not know


@pytest.mark.slow
@pytest.mark.filterwarnings(OLD_NAME)
@pytest.mark.parametrize(("base", "block"), [o for page in PAGES for o in overlays(page)])
def test_config_lines_on_a_page_fit_the_config_they_go_after(
    base: str, block: str, tmp_path: Path
) -> None:
    from rlhf_forge.parsed_stage import parsed_stage

    path = tmp_path / "lines.yaml"
    path.write_text(block)
    parsed_stage(["--config", base, "--config", str(path)])  # raises for an unknown key


def sections() -> dict[str, str]:
    """Text under each format's heading."""
    text = (ROOT / "docs" / "formats.md").read_text()
    parts = re.split(r"^(#+) (.+)\n", text, flags=re.MULTILINE)
    depths, names, bodies = parts[1::3], parts[2::3], parts[3::3]
    return {
        name: body
        for depth, name, body in zip(depths, names, bodies, strict=True)
        if depth == "###"
    }


def test_formats_md_has_a_section_for_every_format_and_no_other() -> None:
    assert set(sections()) == {form.name for form in FORMATS}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_formats_md_gives_the_keys_and_the_mapping_of_a_format(form: Format) -> None:
    lines = sections()[form.name].splitlines()
    [keys] = [line.removeprefix("- keys: ") for line in lines if line.startswith("- keys: ")]
    needed, _, also = keys.partition("; also read: ")
    alternatives = [re.findall("`([^`.]+)`", words) for words in needed.split(", ")]
    assert ["|".join(words) for words in alternatives if words] == list(form.keys)
    assert re.findall("`(.+?)`", also) == list(form.optional)
    becomes = [line.removeprefix("- becomes: ") for line in lines if line.startswith("- becomes:")]
    assert becomes == [form.mapping] * bool(form.mapping)
    assert any(line.startswith("- mind: ") for line in lines)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_the_examples_under_a_format_are_told_as_that_format(form: Format) -> None:
    lines = [line for line in sections()[form.name].splitlines() if line.startswith("{")]
    assert lines
    for line in lines:
        row = json.loads(line)
        if form.refusal is not None or form.asked:
            assert form.matches(row)
            with pytest.raises(UserError):
                detect([row], "formats.md", kind=form.gives)
            continue
        found = detect([row], "formats.md", kind=form.gives)
        assert found.name == form.name
        assert records_of(form, {}, "formats.md:1", row)[0].origin == "formats.md:1"


def json_lines() -> list[tuple[str, str]]:
    return [
        (page.name, line)
        for page in PAGES
        for block in blocks(page, "json")
        for line in block.splitlines()
        if line.startswith("{")
    ]


@pytest.mark.parametrize(("page", "line"), json_lines())
def test_a_line_of_data_on_a_page_is_a_record(page: str, line: str) -> None:
    row = json.loads(line)
    assert records_of(detect([row], page, kind="prompts"), {}, page, row)


def links() -> list[tuple[Path, str]]:
    link = re.compile(r"\]\((?!https?:|#)([^)#]+)")
    return [(page, target) for page in PAGES for target in link.findall(page.read_text())]


@pytest.mark.parametrize(("page", "target"), links(), ids=lambda v: getattr(v, "name", v))
def test_a_link_between_pages_leads_somewhere(page: Path, target: str) -> None:
    assert (page.parent / target).exists()


def test_the_citation_names_the_version_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == package["version"]
    assert f"## {package['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_report_md_has_every_rule_with_its_thresholds_and_no_other() -> None:
    from rlhf_forge.reporting.looks import RULES

    text = (ROOT / "docs" / "report.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .+? \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert rows == [(name, rule.good, rule.bad) for name, rule in RULES.items()]


def test_architecture_md_has_every_floor_in_its_place() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = package["tool"]["importlinter"]["contracts"][0]["layers"]
    lines = (ROOT / "docs" / "architecture.md").read_text().partition("|---|---|---|\n")[2]
    for line, layer in zip(lines.splitlines(), layers, strict=False):
        named = re.findall(r"`(\w+)/?`", line.split("|")[1])
        assert set(layer.split(" | ")) <= set(named)


def test_what_the_pages_export_is_no_part_of_the_project() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    targets = {words[5] for _, words in all_commands() if words[:4] == [*OURS[0], "export"]}
    assert targets
    for target in targets:
        folder = f"{target.split('/')[0]}/"
        assert any(fnmatch(folder, pattern) for pattern in ignored), folder
