"""What is not computed: padding beyond a micro-batch, and logits where nothing is predicted."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from typing_extensions import override

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.functional.log_probs import chunked_log_probs
from rlhf_forge.modules.ppo_update import Counts, PolicyTerms, accumulate
from rlhf_forge.modules.settings import UpdateSettings
from rlhf_forge.modules.sft import SFTModule
from rlhf_forge.rollout import Experience, Rollout, score_rollout
from tests import tiny
from tests.tiny import four_roles, open_tiny, rows, spans
from tests.tiny_run import write_base

PROMPTS, ENDS = (3, 12, 5, 4), (9, 30, 8, 20)
TOKENS, MASK = rows(*ENDS), spans(*zip(PROMPTS, ENDS, strict=True))
BATCHES = [[1, 3], [0, 2]]
WIDTHS = [30, 9]


@dataclass
class Spent:
    """Shapes of the forwards' inputs, and the number of tokens that got logits."""

    forwards: list[tuple[int, int]] = field(default_factory=list)
    real_at_the_right_edge: list[bool] = field(default_factory=list)
    logit_rows: int = 0


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> Spent:
    found = Spent()
    states = Backbone.states

    def counted_states(self: Backbone, tokens: Tensor, wanted: Tensor) -> Tensor:
        found.forwards.append((tokens.shape[0], tokens.shape[1]))
        found.real_at_the_right_edge.append(bool((tokens[:, -1] != 0).any()))
        return states(self, tokens, wanted)

    def counted_chunked(states: Tensor, *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        found.logit_rows += len(states)
        return chunked_log_probs(states, *args, **settings)

    monkeypatch.setattr(Backbone, "states", counted_states)
    monkeypatch.setattr("rlhf_forge.backbone.backbone.chunked_log_probs", counted_chunked)
    return found


class Targets(Callback):
    """Counts the tokens that the training steps are to learn."""

    def __init__(self) -> None:
        self.count = 0

    @override
    def on_train_batch_start(self, *args: Any) -> None:
        self.count += int(args[2].targets.sum())


@pytest.mark.filterwarnings("ignore:::lightning")
def test_an_sft_step_has_logits_for_its_targets_only_and_pads_to_its_micro_batch_only(
    tmp_path: Path, spent: Spent
) -> None:
    base = write_base(tmp_path / "base")
    lines = [{"prompt": "What? " * n, "completion": "Paris. " * (9 - n)} for n in range(1, 9)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = PreferenceDataModule(
        str(tmp_path / "d.jsonl"), batch_size=4, tokenizer=str(base), validation_fraction=0.0
    )
    module = SFTModule(BackboneConfig(str(base), "fp32"), total_steps=2, micro_batch_tokens=64)
    targets = Targets()
    trainer = tiny.trainer(
        limit_train_batches=2,
        limit_val_batches=0,
        callbacks=[targets],
    )
    trainer.fit(module, datamodule=data)
    assert spent.logit_rows == targets.count > 0
    assert len(spent.forwards) > 2
    assert all(spent.real_at_the_right_edge)


def test_scoring_a_rollout_has_logits_for_responses_only_under_two_roles(spent: Spent) -> None:
    scored(four_roles(open_tiny()))
    assert spent.logit_rows == 2 * int(MASK.sum())


def test_scoring_a_rollout_pads_to_the_longest_row_of_each_micro_batch(spent: Spent) -> None:
    scored(four_roles(open_tiny()))
    assert [width for _, width in spent.forwards] == [w for w in WIDTHS for _ in range(4)]


def test_an_update_has_logits_for_responses_only_and_pads_to_its_micro_batches(
    spent: Spent,
) -> None:
    backbone = four_roles(open_tiny())
    zeros = torch.zeros(TOKENS.shape)
    experience = Experience(TOKENS, MASK, MASK, zeros, zeros, zeros, zeros, zeros)
    accumulate(
        backbone,
        [experience.rows(batch) for batch in BATCHES],
        UpdateSettings(),
        PolicyTerms(temperature=1.0, max_new_tokens=27),
        backward=lambda loss: None,
        counts=Counts.of([MASK], 27),
    )
    assert spent.logit_rows == int(MASK.sum())
    assert [width for _, width in spent.forwards] == [w for w in WIDTHS for _ in range(2)]


def test_a_score_has_no_logits_at_all(spent: Spent) -> None:
    score(four_roles(open_tiny()), TOKENS, MASK)
    assert spent.logit_rows == 0


def scored(backbone: Backbone) -> Rollout:
    finished = torch.ones(len(TOKENS), dtype=torch.bool)
    return score_rollout(backbone, TOKENS, MASK, finished, batches=BATCHES, temperature=1.0)
