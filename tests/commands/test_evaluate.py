import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.__main__ import main
from tests.tiny_project import QUIET, told

pytestmark = QUIET
RUN = "lightning_logs/x"
POLICY, AGAINST, REWARD = (f"{RUN}/{stage}/artefact" for stage in ("ppo", "sft", "reward"))
EVALUATE = ["evaluate", POLICY, AGAINST, "pairs.jsonl", REWARD]
SHORT = ["--max_new_tokens", "4", "--number", "6"]


def letters(prompts: Any, responses: list[str], records: Any) -> list[int]:
    return [len(text) for text in responses]


def test_a_policy_is_held_against_another_by_a_reward_model(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*EVALUATE, *SHORT, "--json", "true"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["models"]["policy"]["n"] == 6
    assert found["win_rate"]["n"] == 6
    assert "40 records read, 40 used, 0 skipped" in err


def test_a_policy_may_be_held_against_the_bare_base_by_a_function(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = f"{__name__}:letters"
    assert main(["evaluate", POLICY, "base", "pairs.jsonl", judge, *SHORT, "--json", "true"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["against"]["kl"] == 0.0


def test_without_sampling_there_is_no_kl_and_the_table_says_so(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*EVALUATE, *SHORT, "--temperature", "0"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "policy " in line]
    cells = [cell.strip() for cell in rows[0].split("│")]
    assert cells[6] == "-"


def test_prompts_longer_than_asked_are_left_out_and_counted(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # "What is 0?" has 9 tokens, "What is 10?" has 10.
    assert main([*EVALUATE, *SHORT, "--max_length", "9", "--json", "true"]) == 0
    assert "40 records read, 10 used, 30 skipped" in capsys.readouterr().err


def test_prompts_are_as_long_as_the_context_leaves_room_beside_a_response(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [*EVALUATE, "--number", "2", "--max_new_tokens"]
    assert main([*long, "118", "--json", "true"]) == 0
    assert "40 used" in capsys.readouterr().err
    assert main([*long, "119", "--json", "true"]) == 0
    assert "10 used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--number", "0"], "--number: must be 1 or more, got 0"),
        (["--seed", "-1"], "--seed: must be 0 or more, got -1"),
        (["--data_seed", "-1"], "--data_seed: must be 0 or more, got -1"),
        (["--temperature", "-1"], "--temperature must be 0 or more, got -1.0"),
        (["--max_new_tokens", "0"], "--max_new_tokens must be 1 or more, got 0"),
        (
            ["--max_new_tokens", "128"],
            "--max_new_tokens: must be below the context of the base (128), got 128",
        ),
        (["--max_length", "0"], "--max_length: must be from 1 to 124, which is the context"),
        (["--max_length", "125"], "--max_length: must be from 1 to 124, which is the context"),
    ],
)
def test_an_option_out_of_range_is_one_line(
    options: list[str], error: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told([*EVALUATE, "--max_new_tokens", "4", *options], capsys)[0].startswith(error)


@pytest.mark.parametrize(
    ("place", "given", "error"),
    [
        (1, REWARD, f"{REWARD}: a reward artefact, where one of sft or dpo or ppo is wanted"),
        (2, REWARD, f"{REWARD}: a reward artefact, where one of sft or dpo or ppo is wanted"),
        (4, AGAINST, f"{AGAINST}: a sft artefact, where one of reward is wanted"),
        (1, "nowhere", "nowhere: no artefact here (forge.json is missing)"),
        (4, "nowhere", "nowhere: no artefact here (forge.json is missing)"),
        (4, "nowhere:score", "no function nowhere:score"),
        (4, "json:dumps", "json:dumps: raised TypeError"),
        (3, "nowhere.jsonl", "data.path: no such file: nowhere.jsonl"),
    ],
)
def test_what_is_not_what_it_is_given_as_is_one_line(
    place: int, given: str, error: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*EVALUATE[:place], given, *EVALUATE[place + 1 :], *SHORT]
    assert told(arguments, capsys)[0].startswith(error)


def test_a_base_that_changed_behind_the_artefacts_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained / "base" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert "made with another base" in told([*EVALUATE, *SHORT], capsys)[0]
