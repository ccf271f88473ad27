"""Which artefacts of a run are evaluated, and which are refused."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rlhf_forge.commands.evaluation_of_run import evaluator_of, settings_of
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.summary import Evaluator
from rlhf_forge.parsed_stage import parsed_stage
from tests.tiny_project import QUIET, STAGES

pytestmark = QUIET
ROOT = Path("lightning_logs/x")


def opened() -> Evaluator:
    stages = {stage: parsed_stage(["--config", f"{stage}.yaml"]) for stage in STAGES}
    evaluator = evaluator_of(settings_of(Path()), stages)
    assert evaluator is not None
    return evaluator


def test_a_run_is_evaluated_with_all_its_roles(trained: Path) -> None:
    evaluator = opened()
    policy = evaluator.policies["ppo"]
    assert evaluator.backbone.roles == {"base", "reference", policy, "reward"}
    assert evaluator.roles == {"base": "base", "sft": "reference", "ppo": policy}
    assert len(evaluator.prompts) == len(evaluator.pairs) == 10


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
