"""Which artefacts of a run are evaluated, and which are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from rlhf_forge.commands.evaluation_of_run import evaluator_of, settings_of
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.summary import Evaluator
from rlhf_forge.parsed_stage import parsed_stage
from tests.tiny_project import QUIET, STAGES

pytestmark = QUIET
ROOT = Path("lightning_logs/x")


def letters(prompts: Any, responses: list[str], records: list[dict[str, Any]]) -> list[float]:
    assert all({"prompt", "finished"} <= record.keys() for record in records)
    return [float(len(text)) for text in responses]


def opened(*of_ppo: str, without: frozenset[str] = frozenset()) -> Evaluator:
    more = {"ppo": of_ppo}
    stages = {
        stage: parsed_stage(["--config", f"{stage}.yaml", *more.get(stage, ())])
        for stage in STAGES
        if stage not in without
    }
    evaluator = evaluator_of(settings_of(Path()), stages)
    assert evaluator is not None
    return evaluator


def test_a_run_is_evaluated_with_all_its_roles(trained: Path) -> None:
    evaluator = opened()
    policy = evaluator.policies["ppo"]
    assert evaluator.backbone.roles == {"base", "reference", policy, "reward"}
    assert evaluator.roles == {"base": "base", "sft": "reference", "ppo": policy}
    assert len(evaluator.prompts) == len(evaluator.pairs) == 10


def test_as_many_rows_are_generated_at_once_as_the_policy_samples(trained: Path) -> None:
    assert opened("--model.init_args.rollout.max_rows", "3").max_rows == 3


def test_without_a_judge_the_functions_that_rewarded_the_policy_judge_it(trained: Path) -> None:
    function = ["--model.init_args.reward", f"{__name__}:letters"]
    evaluator = opened(*function, without=frozenset({"reward"}))
    assert "reward" not in evaluator.backbone.roles
    answers = evaluator.answers("reference")
    assert evaluator.judged(answers).scores == [float(len(text)) for text in answers.texts]
    assert evaluator.reward.timeout is None
    with_model = opened(*function)
    assert "reward" in with_model.backbone.roles, "its accuracy is told all the same"
    assert with_model.judged(answers).scores == evaluator.judged(answers).scores


def test_a_sum_judges_as_a_sum(trained: Path) -> None:
    mix = f"[{{weight: 0.5}}, {{source: '{__name__}:letters', weight: -1}}]"
    plain, mixed = opened(), opened("--model.init_args.reward", mix)
    answers = plain.answers("reference")
    pairs = zip(plain.judged(answers).scores, answers.texts, strict=True)
    expected = [0.5 * score - len(text) for score, text in pairs]
    assert mixed.judged(answers).scores == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("base_fingerprint", "x" * 64, "made with another base"),
        ("template_hash", "x" * 64, "made with another chat template"),
        ("stage", "other", "a other artefact, where one of"),
    ],
)
def test_artefacts_of_another_base_template_or_stage_are_refused(
    key: str, value: str, error: str, trained: Path
) -> None:
    for stage in STAGES:
        path = ROOT / stage / "artefact" / "forge.json"
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | {key: value}))
        with pytest.raises(UserError, match=error) as caught:
            opened()
        assert str(path.parent) in str(caught.value)
        path.write_text(before)


def test_a_reward_model_that_read_likelihoods_of_another_reference_is_refused(
    trained: Path,
) -> None:
    artefact = ROOT / "reward" / "artefact"
    head = load_file(artefact / "head.safetensors")
    feature = {name: head["std"].new_ones(()) for name in ("likelihood", "likelihood_mean")}
    save_file(head | feature, artefact / "head.safetensors")
    assert opened().backbone.head("reward").likelihood is not None
    path = artefact / "forge.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"parents": {}}))
    with pytest.raises(UserError, match="reads how likely its reference finds an answer"):
        opened()


def test_a_run_with_nothing_held_out_is_told(trained: Path) -> None:
    with pytest.raises(UserError, match="ppo: no prompt is held out to evaluate on"):
        opened("--data.validation_fraction", "0.000001")
