import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.reporting.looks import RULES, looks_at
from rlhf_forge.reporting.run import read_run
from rlhf_forge.reporting.verdicts import WORST_FIRST, Look
from tests.reporting.written import (
    card,
    readings,
    responses,
    summary,
    write,
    write_artefact,
    write_events,
    write_lines,
    write_run,
)

Change = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "mine")


def looks(folder: Path) -> dict[str, Look]:
    return {look.rule: look for look in looks_at(read_run(str(folder)))}


def in_summary(*path: str, value: Any) -> Change:
    """Another number in summary.json."""

    def change(folder: Path) -> None:
        found: Any = summary("x")
        place = found
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        write(folder / "summary.json", found)

    return change


def in_events(stage: str, tag: str, values: list[float]) -> Change:
    def change(folder: Path) -> None:
        write_events(folder / stage, {tag: values}, first_step=1)

    return change


def alike(number: int) -> Change:
    """Responses of the policy with so many different texts."""

    def change(folder: Path) -> None:
        rows = responses("x")
        for at, row in enumerate(rows):
            row["models"]["ppo"]["text"] = f"text {at % number}"
        write_lines(folder / "responses.jsonl", rows)

    return change


def watched(*, lost: bool) -> Change:
    def change(folder: Path) -> None:
        rows = readings("the judge has fallen")
        rows[-1]["judge"] = -1.0 if lost else 0.5
        write_lines(folder / "ppo" / "watch.jsonl", rows)

    return change


def kept_in_time(folder: Path) -> None:
    watched(lost=True)(folder)
    write_artefact(folder / "ppo", "ppo", steps=8)


def no_artefact(folder: Path) -> None:
    shutil.rmtree(folder / "ppo" / "artefact")


def carded(verdict: str) -> Change:
    return lambda folder: write(folder / "reward" / "artefact" / "card.json", card("x", verdict))


def without_card(folder: Path) -> None:
    (folder / "reward" / "artefact" / "card.json").unlink()


def guessing(folder: Path) -> None:
    without_card(folder)
    in_summary("reward", "mixed", "low", value=0.49)(folder)


@pytest.mark.parametrize(
    ("rule", "change", "verdict"),
    [
        ("unfinished", no_artefact, "bad"),
        ("gain", in_summary("gain", "gold", value=0.05), "doubtful"),
        ("gain", in_summary("gain", "gold", value=-0.3), "bad"),
        ("gain", in_summary("judge", value=None), "doubtful"),
        ("accuracy", in_summary("models", "ppo", "accuracy", value=0.9), "good"),
        ("accuracy", in_summary("models", "ppo", "accuracy", value=0.8), "doubtful"),
        ("accuracy", in_summary("models", "ppo", "accuracy", value=0.4), "bad"),
        ("watch", watched(lost=False), "doubtful"),
        ("watch", watched(lost=True), "bad"),
        ("watch", kept_in_time, "doubtful"),
        ("card", carded("good"), "good"),
        ("card", carded("bad"), "bad"),
        ("reward_accuracy", without_card, "good"),
        ("reward_accuracy", guessing, "bad"),
        ("kl", in_summary("models", "ppo", "kl", value=0.01), "doubtful"),
        ("kl", in_summary("models", "ppo", "kl", value=40.0), "doubtful"),
        ("kl", in_summary("models", "ppo", "kl", value=120.0), "bad"),
        ("length", in_summary("models", "ppo", "length", value=30.0), "doubtful"),
        ("length", in_summary("models", "ppo", "length", value=1.4), "bad"),
        ("endings", in_summary("models", "ppo", "eos", value=0.8), "doubtful"),
        ("endings", in_summary("models", "ppo", "eos", value=0.3), "bad"),
        ("sameness", alike(15), "doubtful"),
        ("sameness", alike(2), "bad"),
        ("overfitting", in_events("reward", "val/accuracy", [0.6]), "doubtful"),
        ("overfitting", in_events("reward", "val/accuracy", [0.85]), "good"),
        ("skipped", in_events("sft", "sft/skipped", [1.0]), "doubtful"),
        ("critic", in_events("ppo", "value/explained_variance", [-0.5] * 13), "doubtful"),
    ],
)
def test_a_rule_finds_what_it_is_for(rule: str, change: Change, verdict: str, folder: Path) -> None:
    change(folder)
    assert looks(folder)[rule].verdict == verdict


def test_where_all_is_well_nothing_is_doubtful(folder: Path) -> None:
    carded("good")(folder)
    write_lines(folder / "ppo" / "watch.jsonl", readings("x")[:-1])
    assert {look.verdict for look in looks(folder).values()} == {"good"}
    assert looks(folder)["watch"].text == "7 readings of ppo, and nothing was found"


def test_the_worst_stand_first_and_among_equals_the_order_of_the_rules_counts(
    folder: Path,
) -> None:
    in_summary("models", "ppo", "eos", value=0.3)(folder)
    found = looks_at(read_run(str(folder)))
    order = list(RULES)
    places = [(WORST_FIRST.index(look.verdict), order.index(look.rule)) for look in found]
    assert places == sorted(places)
    assert found[0].rule == "endings"


def test_a_fact_is_told_with_its_numbers(folder: Path) -> None:
    found = looks(folder)
    assert found["gain"].text == (
        "ppo scores +0.95 (standard error 0.04, paired by prompt) beside sft on 40 held-out "
        "prompts, and wins 84% (81% to 87%)"
    )
    assert found["length"].text == "the mean response went from 20.5 to 17 tokens"
    assert "40 different texts of ppo to 40 prompts" in found["sameness"].text


def test_without_an_evaluation_training_tells_and_is_no_proof_of_gain(folder: Path) -> None:
    (folder / "summary.json").unlink()
    found = looks(folder)
    assert found["gain"].verdict == "doubtful"
    assert "was not evaluated" in found["gain"].text
    assert found["length"].text == "the mean response went from 20 to 18.1 tokens"
    assert "accuracy" not in found
    assert "sameness" not in found


def test_a_judge_that_the_summary_does_not_name_proves_nothing(folder: Path) -> None:
    found = summary("x")
    del found["judge"]
    (folder / "summary.json").write_text(json.dumps(found))
    assert looks(folder)["gain"].verdict == "doubtful"
