import json
import shlex
from pathlib import Path

import pytest

from rlhf_forge.__main__ import main
from tests.inspection.made import row, write
from tests.test_docs import ROOT, commands
from tests.tiny_project import QUIET, told

pytestmark = QUIET
PAGES = ("README.md", "docs/inspect-data.md")


def documented() -> list[list[str]]:
    """What the pages ask to type behind ``python -m rlhf_forge``."""
    lines = [words for page in PAGES for words in commands(ROOT / page)]
    return [words[3:] for words in lines if words[:4] == [*OURS, "inspect-data"]]


OURS = ["python", "-m", "rlhf_forge"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "preferences.jsonl", [row(n) for n in range(12)])
    write(tmp_path / "old.jsonl", [row(n) for n in range(10)])
    write(tmp_path / "held_out.jsonl", [row(n) for n in range(20, 24)])
    # The pages name the shipped reward.yaml, whose base is not on every machine.
    (tmp_path / "reward.yaml").write_text(
        "model: {init_args: {backbone: {path: 'package:toy_world/base'}}}\n"
        "data: {max_length: 128}\n"
    )
    return tmp_path


@pytest.mark.parametrize("words", documented(), ids=shlex.join)
def test_every_command_on_the_pages_runs_as_typed(words: list[str], data: Path) -> None:
    assert main(words) == 0
    for option, name in (("--html", "page.html"), ("--write", "clean.jsonl")):
        assert (data / name).exists() == (option in words)


def test_errors_and_only_errors_are_the_status(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(data / "twice.jsonl", [row(1), row(1)])
    assert main(["inspect-data", "twice.jsonl"]) == 0
    write(data / "empty.jsonl", [row(1), row(2) | {"chosen": ""}])
    assert main(["inspect-data", "empty.jsonl"]) == 1
    assert main(["inspect-data", "empty.jsonl", "--ignore", "PREF203"]) == 0
    assert "PREF203 error" in capsys.readouterr().out


def test_length_and_tokenizer_come_from_the_config_unless_given(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(data / "long.jsonl", [row(1), row(2) | {"chosen": "word " * 150}])
    command = ["inspect-data", "long.jsonl", "--json", "--select", "PREF205", "--config"]
    counts = []
    for more in ([], ["--max_length", "1000"]):
        main([*command, "reward.yaml", *more])
        found = json.loads(capsys.readouterr().out)["findings"]
        counts.append([finding["count"] for finding in found])
    assert counts == [[1], []]


def test_columns_of_other_names_are_read(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"q": f"question {n}", "good": f"a{n}", "bad": f"b{n}"} for n in range(3)]
    write(data / "votes.jsonl", rows)
    columns = ["--map.prompt=q", "--map.chosen=good", "--map.rejected=bad"]
    assert main(["inspect-data", "votes.jsonl", *columns]) == 0
    assert "3 are pairs" in capsys.readouterr().out


def test_the_terminal_is_shown_no_control_characters(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(n, source=f"\x1b[31m{n % 2}\u202e") for n in range(4)]
    write(data / "hostile.jsonl", rows)
    main(["inspect-data", "hostile.jsonl"])
    out = capsys.readouterr().out
    assert not {"\x1b", "\u202e"} & set(out)
    assert "⟨U+001B⟩" in out


def test_a_reward_model_judges_the_labels(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(trained / "many.jsonl", [row(n) for n in range(200)])
    reward = "lightning_logs/x/reward/artefact"
    assert main(["inspect-data", "many.jsonl", "--reward", reward, "--json"]) == 0
    labels = json.loads(capsys.readouterr().out)["labels"]
    assert labels["judge"] == reward
    assert labels["n"] == 200


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "paths: needed, and not given"),
        (["nowhere.jsonl"], "data.path: no such file: nowhere.jsonl"),
        (["preferences.jsonl", "--select", "PREF9"], "--select: no rule 'PREF9'"),
        (["--explain", "PREF"], "--explain: no rule 'PREF'"),
        (["preferences.jsonl", "--write", "old.jsonl"], "--write: old.jsonl is there already"),
        (
            ["preferences.jsonl", "--config", "held_out.jsonl"],
            "--config: held_out.jsonl is no config",
        ),
        (["preferences.jsonl", "--reward", "nowhere"], "nowhere: no artefact here"),
        (["preferences.jsonl", "--base", "nowhere"], "base 'nowhere': no such folder"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], error: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(["inspect-data", *words], capsys)[0].startswith(error)
