"""What pairs have and a stage does not read is told."""

import json
from pathlib import Path

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.modules.reward_update import PairLoss
from tests.modules.test_dpo import CONFIG
from tests.tiny_project import QUIET

pytestmark = QUIET


def give(path: Path, **labels: float) -> None:
    """The pairs of a file these labels."""
    rows = [json.loads(line) | labels for line in path.read_text().splitlines()]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize("stage", ["reward", "dpo"])
def test_labels_that_a_stage_does_not_read_are_told_with_their_number(
    stage: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dpo.yaml").write_text(CONFIG)
    words = ["fit", "--config", f"{stage}.yaml", "--model.init_args.total_steps", "1"]
    words += ["--data.validation_fraction", "0.2", "--trainer.limit_val_batches", "0"]
    assert (
        main([*words, "--run", "z", "--model.init_args.sft", "lightning_logs/x/sft/artefact"]) == 0
    )
    assert "which is not read" not in capsys.readouterr().err
    give(Path("pairs.jsonl"), margin=2.0, preference=0.8)
    assert (
        main([*words, "--run", "y", "--model.init_args.sft", "lightning_logs/x/sft/artefact"]) == 0
    )
    told = [line for line in capsys.readouterr().err.splitlines() if "which is not read" in line]
    why = {
        "reward": ["model.init_args.margin_coef is 0", "model.init_args.soft_labels is false"],
        "dpo": ["DPO weighs every pair alike"] * 2,
    }
    assert [line.rpartition(": ")[2] for line in told] == why[stage]
    held = [line.partition(" pairs have ")[2].partition(",")[0] for line in told]
    assert held == ["a margin", "a preference"]
    assert all(line.startswith("data: 30 of 30 ") for line in told)


def test_a_label_that_is_read_is_not_told_of() -> None:
    loss = PairLoss(0.0, 0.0, margin_coef=0.5, soft_labels=True)
    assert loss.unread == {}
