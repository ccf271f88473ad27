"""PPO does not start on a reward model whose report card is bad, unless told to."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
    event_accumulator,
)

from rlhf_forge.__main__ import main
from rlhf_forge.evaluation.report_card import CARD, read_report
from rlhf_forge.parsed_stage import parsed_stage
from tests.tiny_project import QUIET, told

pytestmark = QUIET
REWARD = Path("lightning_logs/x/reward/artefact")
REFUSE = "--model.init_args.accept_bad_card=false"
KEY = "model.init_args.accept_bad_card"


def mark(verdict: str) -> None:
    """The card says this, and so do all its checks."""
    card = json.loads((REWARD / CARD).read_text())
    for check in card["checks"]:
        check["verdict"] = verdict
    (REWARD / CARD).write_text(json.dumps(card | {"verdict": verdict}))


def test_a_bad_card_is_refused_by_fit_and_by_its_dry_run_naming_the_key(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(Path("lightning_logs").rglob("*"))
    error, hint = told(["fit", "--config", "ppo.yaml", REFUSE], capsys)
    assert error.startswith(f"{REWARD}: its report card is bad (accuracy, ")
    assert KEY in hint
    assert main(["fit", "--dry-run", "--config", "ppo.yaml", REFUSE]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [f"error: {error}", f"hint: {hint}"]
    assert sorted(Path("lightning_logs").rglob("*")) == before, "nothing was moved"


def test_a_bad_card_that_is_accepted_is_told_and_taken(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", "ppo.yaml"]) == 0
    assert "reward: report card bad (accuracy, " in capsys.readouterr().err


@pytest.mark.parametrize("verdict", ["good", "doubtful"])
def test_another_card_is_told_in_one_line(
    verdict: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark(verdict)
    assert main(["fit", "--dry-run", "--config", "ppo.yaml", REFUSE]) == 0
    [line] = [x for x in capsys.readouterr().out.splitlines() if x.startswith("reward: ")]
    assert line.startswith(f"reward: report card {verdict}")


def test_an_artefact_without_a_card_is_told_in_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (REWARD / CARD).unlink()
    assert main(["fit", "--config", "ppo.yaml", REFUSE]) == 0
    assert f"reward: no report card in {REWARD}; " in capsys.readouterr().err


def worth(prompts: object, responses: list[str], records: object) -> list[float]:
    return [float(len(text)) for text in responses]


def test_so_is_a_reward_of_functions(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = f"--model.init_args.reward={__name__}:worth"
    assert main(["fit", "--dry-run", "--config", "ppo.yaml", REFUSE, reward]) == 0
    assert "reward: functions only, so there is no report card\n" in capsys.readouterr().out


def test_a_broken_card_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (REWARD / CARD).write_text("{")
    assert "not a report card" in told(["fit", "--config", "ppo.yaml"], capsys)[0]


def test_the_other_stages_ask_for_no_card(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--dry-run", "--config", "reward.yaml"]) == 0
    assert "report card" not in capsys.readouterr().out


def test_accepting_a_card_makes_no_other_run_of_it(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark("good")
    assert main(["fit", "--config", "ppo.yaml", REFUSE, "--ckpt_path", "last"]) == 0
    assert "ppo: finished before" in capsys.readouterr().err


def test_reward_training_writes_the_card_and_says_and_logs_its_verdict(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(REWARD)
    assert main(["fit", "--config", "reward.yaml"]) == 0
    err = capsys.readouterr().err
    card = read_report(REWARD)
    assert card is not None
    assert card.n == 10
    assert f"report card: {card.verdict}\n" in err
    readme = (REWARD / "README.md").read_text()
    assert f"## Report card: {card.verdict}" in readme
    assert set(re.findall(r"^\| (\w+) \| -?\d", readme, re.MULTILINE)) >= {
        check.name for check in card.checks
    }
    events = event_accumulator.EventAccumulator(str(REWARD.parent)).Reload()
    [logged] = events.Scalars("card/bad_checks")
    assert logged.value == len(card.of("bad"))


@pytest.mark.parametrize("named", ["", " --map.prompt=prompt", " --format=pairs"])
def test_behind_a_bad_card_the_data_is_looked_at_before_ppo_is_named(
    named: str, trained: Path
) -> None:
    typed = [f"--data.{word.removeprefix('--')}" for word in named.split()]
    lines = list(parsed_stage(["--config", "reward.yaml", *typed]).following("pairs"))
    assert KEY in lines[0]
    assert lines[-2:] == [
        f"next: python -m rlhf_forge inspect-data pairs.jsonl{named}",
        "then: python -m rlhf_forge fit --config ppo.yaml --run x",
    ]
    assert main(lines[-2].split()[4:]) == 0


@pytest.mark.parametrize("verdict", ["good", "doubtful"])
def test_behind_another_card_comes_ppo(verdict: str, trained: Path) -> None:
    mark(verdict)
    assert list(parsed_stage(["--config", "reward.yaml"]).following("pairs")) == [
        "next: python -m rlhf_forge fit --config ppo.yaml --run x"
    ]


def test_an_export_carries_the_card(trained: Path) -> None:
    assert main(["export", str(REWARD), "out"]) == 0
    assert "## Report card: bad" in Path("out/README.md").read_text()
    assert read_report(Path("out")) == read_report(REWARD)
