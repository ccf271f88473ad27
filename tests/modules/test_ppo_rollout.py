"""Responses, and whom and what they are scored by: roles, functions, the rows they answer."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.artefact import read_manifest
from rlhf_forge.data.records import Conversation, Record
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.evaluation.rewards import Asked
from rlhf_forge.modules import ppo_rollout
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.rollout import Rollout
from tests.tiny_project import QUIET, told

pytestmark = QUIET
HERE = __name__
FIT = ["fit", "--config", "ppo.yaml"]
ONLY_ME = ["--model.init_args.reward", f"{HERE}:note"]
ARTEFACT = Path("lightning_logs/x/ppo/artefact")
Given = tuple[Sequence[Conversation], Sequence[str], Sequence[dict[str, Any]]]
given: list[Given] = []


def columns() -> tuple[list[Any], list[Any], list[Any]]:
    """Prompts, responses and records of all calls."""
    prompts, responses, records = ([x for call in given for x in call[n]] for n in range(3))
    return prompts, responses, records


@pytest.fixture(autouse=True)
def nothing_given() -> Iterator[None]:
    given.clear()
    yield
    given.clear()


def note(
    prompts: Sequence[Conversation], responses: Sequence[str], records: Sequence[dict[str, Any]]
) -> list[float]:
    given.append((prompts, responses, records))
    return [float(len(text)) for text in responses]


def fails_at_the_second(
    prompts: Sequence[Conversation], responses: Sequence[str], records: Sequence[dict[str, Any]]
) -> list[float]:
    scores = note(prompts, responses, records)
    return scores if len(given) == 1 else [float("nan"), *scores[1:]]


def test_what_a_function_is_given_lines_up_row_by_row_in_every_round_of_the_data(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[tuple[list[int], str, Record]] = []
    asked_of = ppo_rollout.asked_of

    def watched(rollout: Rollout, records: Sequence[Record], template: ChatTemplate) -> Asked:
        for tokens, mask, record in zip(rollout.tokens, rollout.mask, records, strict=True):
            start = int(mask.int().argmax())
            assert tokens[:start].tolist() == template.prompt(record.prompt)
            rows.append((tokens[:start].tolist(), template.decode(tokens[mask].tolist()), record))
        return asked_of(rollout, records, template)

    monkeypatch.setattr(ppo_rollout, "asked_of", watched)
    keys = ["--model.init_args.rollout.responses_per_prompt", "2", "--data.batch_size", "8"]
    keys += ["--model.init_args.total_iterations", "5", "--trainer.limit_val_batches", "0"]
    assert main([*FIT, *ONLY_ME, *keys]) == 0
    assert len(given) == 5
    assert len(rows) == 5 * 8 * 2 > 2 * 30, "there is a second round of the 30 prompts"
    prompts, responses, records = columns()
    for number, (_, text, record) in enumerate(rows):
        assert responses[number] == text
        assert prompts[number] == record.prompt
        assert records[number] == {**record.fields, "finished": records[number]["finished"]}
        assert records[number] == {**records[number ^ 1], "finished": records[number]["finished"]}
    asked = [record["prompt"] for record in records[::2]]
    assert len(set(asked[:30])) == 30
    assert asked[30:40] != asked[:10], "a round is shuffled anew"


def test_with_a_function_no_reward_model_is_needed_and_its_scores_are_reported(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("lightning_logs/x/reward")
    error, _ = told(FIT, capsys)
    assert error.startswith("ppo: needs the artefact of stage reward")
    assert main(["fit", "--dry-run", *FIT[1:], *ONLY_ME]) == 0
    assert main([*FIT, *ONLY_ME, "--trainer.limit_val_batches", "0"]) == 0
    manifest = read_manifest(ARTEFACT)
    assert manifest.parents.keys() == {"sft"}
    assert "value/explained_variance" in manifest.metrics
    last = [len(text) for text in given[-1][1]]
    assert manifest.metrics["objective/score"] == pytest.approx(sum(last) / len(last))


def test_from_the_bare_base_no_artefact_is_needed_at_all(project: Path) -> None:
    assert main([*FIT, *ONLY_ME, "--model.init_args.reference", "base"]) == 0
    assert read_manifest(ARTEFACT).parents == {}


def test_in_a_sum_the_runs_own_reward_model_is_the_term_without_a_source(trained: Path) -> None:
    Path("mix.yaml").write_text(
        f"model: {{init_args: {{reward: [{{weight: 0.5}}, {{source: '{HERE}:note', weight: 2}}]}}}}"
    )
    assert main([*FIT, "--config", "mix.yaml"]) == 0
    reward = read_manifest(Path("lightning_logs/x/reward/artefact"))
    assert read_manifest(ARTEFACT).parents["reward"] == reward.fingerprint
    assert given


def test_held_out_prompts_are_scored_by_the_function_with_their_own_records(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, *ONLY_ME]) == 0
    given.clear()
    capsys.readouterr()
    assert main(["validate", "--config", "ppo.yaml", *ONLY_ME]) == 0
    rows = dict(line.split() for line in capsys.readouterr().out.splitlines())
    prompts, responses, records = columns()
    assert len(responses) == 10
    assert [p[-1]["content"] for p in prompts] == [record["prompt"] for record in records]
    mean = sum(len(text) for text in responses) / len(responses)
    assert float(rows["val/score"]) == pytest.approx(mean, rel=1e-5)


def test_a_function_that_gives_no_number_stops_the_run_before_the_update(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learnt: list[int] = []
    learn = PPOModule.learn

    def counted(self: PPOModule, *arguments: Any) -> Any:
        learnt.append(self.iteration)
        return learn(self, *arguments)

    monkeypatch.setattr(PPOModule, "learn", counted)
    error, _ = told([*FIT, "--model.init_args.reward", f"{HERE}:fails_at_the_second"], capsys)
    assert error == (
        f"reward, iteration 1: {HERE}:fails_at_the_second: gave nan for response 0 of 4, and a "
        "score must be a finite number"
    )
    assert learnt == [0]


@pytest.mark.parametrize(
    ("reward", "error"),
    [
        ("nowhere:score", "model.init_args.reward: no function nowhere:score"),
        ("[]", "model.init_args.reward must have one term or more"),
        (
            "[{weight: 1}, {source: lightning_logs/x/reward/artefact}]",
            "model.init_args.reward must have one term or more, and one reward model at most, got "
            "2 and 2",
        ),
        (
            f"[{{source: '{HERE}:note', weight: 0}}]",
            "model.init_args.reward must have weights that are finite and not 0, got 0.0",
        ),
        ("[{sauce: 'a:b'}]", "model.init_args.reward.sauce: no such key"),
        ("[{source: 'a:b', weight: x}]", "model.init_args.reward.weight: must be a number, got x"),
        ("{source: 'a:b'}", "model.init_args.reward: must be a list or text or null"),
    ],
)
def test_a_reward_that_is_none_is_told_with_its_key(
    reward: str, error: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told([*FIT, "--model.init_args.reward", reward], capsys)[0].startswith(error)


def test_a_longer_limit_for_the_function_is_the_same_run(trained: Path) -> None:
    from rlhf_forge.parsed_stage import parsed_stage

    longer = ["--model.init_args.reward_timeout", "100"]
    assert parsed_stage(FIT[1:]).fingerprint == parsed_stage([*FIT[1:], *longer]).fingerprint
    other = parsed_stage([*FIT[1:], *ONLY_ME])
    assert parsed_stage(FIT[1:]).fingerprint != other.fingerprint
