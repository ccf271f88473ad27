"""Which artefacts of a run are evaluated, and which are refused."""

import json
from pathlib import Path

import pytest

from rlhf_forge.commands.evaluation_of_run import evaluator_of
from rlhf_forge.errors import UserError
from tests.tiny_project import QUIET, STAGES

pytestmark = QUIET
ROOT = Path("lightning_logs/x")
COMMANDS = {stage: ["--config", f"{stage}.yaml"] for stage in STAGES}


def test_a_run_is_evaluated_with_all_its_roles(trained: Path) -> None:
    evaluator = evaluator_of(trained, COMMANDS)
    assert evaluator.backbone.roles == {"base", "reference", "policy", "reward"}
    assert evaluator.roles == {"base": "base", "sft": "reference", "ppo": "policy"}
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
            evaluator_of(trained, COMMANDS)
        assert str(path.parent) in str(caught.value)
        path.write_text(before)
