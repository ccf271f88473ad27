import json
import shutil
from pathlib import Path

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.evaluation.report_card import CARD
from tests.tiny_project import QUIET, told, write_pairs

pytestmark = QUIET
REWARD = "lightning_logs/x/reward/artefact"
EVALUATE = ["evaluate", "--reward", REWARD, "pairs.jsonl"]


def test_the_held_out_share_of_a_file_gives_the_card_that_training_wrote(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Length as in training; the status of a bad card is 1.
    assert main([*EVALUATE, "--fraction", "0.2", "--max_length", "64", "--json"]) == 1
    out, err = capsys.readouterr()
    found, written = json.loads(out), json.loads(Path(REWARD, CARD).read_text())
    assert "10 of them held out" in err
    assert (found["n"], found["verdict"]) == (written["n"], "bad") == (10, "bad")
    assert [c["verdict"] for c in found["checks"]] == [c["verdict"] for c in written["checks"]]
    for ours, theirs in zip(found["checks"], written["checks"], strict=True):
        assert ours["value"] == pytest.approx(theirs["value"], abs=1e-3)


def test_the_table_fits_80_columns_and_begins_with_the_verdict(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(EVALUATE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("report card: ")
    assert max(map(len, lines)) <= 80
    assert any("other_prompt" in line for line in lines)


def test_what_the_data_says_is_no_markup_and_moves_no_cursor(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "prompt": f"{n}[red]",
            "chosen": "a\x1b[2J b",
            "rejected": f"\u202e{n}",
            "source": "[x]\x07",
        }
        for n in range(12)
    ]
    write_pairs(Path("odd.jsonl"), rows)
    main([*EVALUATE[:-1], "odd.jsonl"])
    out = capsys.readouterr().out
    assert "[x]" in out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)


def test_number_and_probed_limit_what_is_scored(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*EVALUATE, "--number", "6", "--probed", "4", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 6
    assert found["probes"]["empty"]["below"]["n"] == 4


def test_it_needs_no_other_artefact_of_the_run(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(REWARD, "alone")
    shutil.rmtree("lightning_logs")
    assert main(["evaluate", "alone", "pairs.jsonl", "--reward", "--json"]) in {0, 1}
    assert json.loads(capsys.readouterr().out)["n"] == 40


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["lightning_logs/x/sft/artefact", "pairs.jsonl"], "a sft artefact, where one of reward"),
        (["nowhere", "pairs.jsonl"], "no artefact here"),
        ([REWARD, "nowhere.jsonl"], "no such file: nowhere.jsonl"),
        ([REWARD, "pairs.jsonl", "--number", "0"], "--number: must be 1 or more, got 0"),
        ([REWARD, "pairs.jsonl", "--max_length", "129"], "--max_length: must be from 1 to 128"),
        ([REWARD, "pairs.jsonl", "--fraction", "1"], "1 is not from 0 to below 1"),
        ([REWARD], "pairs: needed, and not given"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], error: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert error in told(["evaluate", "--reward", *arguments], capsys)[0]


def test_both_forms_have_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    assert "--reward" in capsys.readouterr().out
    assert main(["evaluate", "--reward", "--help"]) == 0
    assert "Report card of a reward model" in capsys.readouterr().out
