"""An ensemble of reward models: trained together, kept in one artefact, used as one score."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)

from rlhf_forge import preflight
from rlhf_forge.__main__ import main
from rlhf_forge.backbone.adapter_files import AdapterWeights, read_adapter, write_adapter
from rlhf_forge.backbone.scoring import ensemble_of, member_scores, members_of, score
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.report_card import read_report
from rlhf_forge.modules.calibration import scale_on
from tests import tiny
from tests.tiny_project import QUIET, told

pytestmark = QUIET
RUN = Path("lightning_logs/x")
REWARD = RUN / "reward/artefact"
THREE = "--model.init_args.ensemble=3"
TOKENS, MASK = tiny.rows(8, 6, seed=3), tiny.spans((4, 8), (3, 6))


def three_members() -> AdapterWeights:
    backbone = tiny.open_tiny()
    first, *others = (tiny.random_weights(backbone, seed=seed, head=True) for seed in (1, 2, 3))
    return replace(first, members=tuple(others))


@torch.no_grad()
def test_a_score_is_the_mean_of_what_each_member_gives_alone() -> None:
    backbone, weights = tiny.open_tiny(), three_members()
    backbone.add_role("reward", weights, trainable=False)
    assert members_of(backbone, "reward") == ["reward", "reward~1", "reward~2"]
    apart = []
    for member in (replace(weights, members=()), *weights.members):
        alone = tiny.open_tiny()
        alone.add_role("reward", member, trainable=False)
        apart.append(score(alone, TOKENS, MASK))
    assert torch.allclose(member_scores(backbone, TOKENS, MASK), torch.stack(apart), atol=1e-5)
    assert torch.allclose(score(backbone, TOKENS, MASK), torch.stack(apart).mean(0), atol=1e-5)
    lowest = score(backbone, TOKENS, MASK, together=lambda scores: scores.amin(0))
    assert torch.allclose(lowest, torch.stack(apart).amin(0), atol=1e-5)


def test_all_members_are_written_and_read_back_bit_for_bit(tmp_path: Path) -> None:
    backbone = tiny.open_tiny()
    backbone.add_role("reward", three_members(), trainable=True)
    before = ensemble_of(backbone, "reward")
    write_adapter(before, tmp_path, base="base")
    after = read_adapter(tmp_path)
    assert len(after.members) == 2
    for ours, theirs in zip((before, *before.members), (after, *after.members), strict=True):
        assert ours.head is not None
        assert theirs.head is not None
        assert torch.equal(ours.head.weight, theirs.head.weight)
        for name, pair in ours.pairs.items():
            assert all(map(torch.equal, pair, theirs.pairs[name]))


def test_a_lost_member_is_refused(tmp_path: Path) -> None:
    write_adapter(three_members(), tmp_path, base="base")
    shutil.rmtree(tmp_path / "member_1")
    with pytest.raises(UserError, match="member_1: missing, of an ensemble of 2"):
        read_adapter(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("likelihood", [None, 0.5])
def test_scores_are_centred_and_scaled_member_by_member_and_as_a_whole(
    likelihood: float | None,
) -> None:
    backbone = tiny.open_tiny()
    backbone.add_role("reference", tiny.random_weights(backbone, seed=0), trainable=False)
    first = three_members()
    headed = []
    for member in (first, *first.members):
        assert member.head is not None
        headed.append(replace(member, head=replace(member.head, likelihood=likelihood)))
    members = tuple(replace(member, members=()) for member in headed[1:])
    backbone.add_role("reward", replace(headed[0], members=members), trainable=True)
    tokens, mask = tiny.rows(9, 12, 7, 8, 11, 10, seed=5), tiny.spans(*[(3, 7)] * 5, (4, 12))
    tokens, mask = tokens[:, : mask.shape[1]], mask
    scale_on(backbone, tokens, mask, max_tokens=1000)
    scores = score(backbone, tokens, mask)
    assert abs(scores.mean().item()) < 1e-4
    assert scores.std().item() == pytest.approx(1.0, abs=1e-4)
    apart = member_scores(backbone, tokens, mask)
    assert apart.mean(1).abs().max().item() < 1e-4
    assert (apart.std(1) / apart[0].std() - 1).abs().max().item() < 1e-4


@pytest.fixture
def ensemble(trained: Path) -> Path:
    """The project with an ensemble of three in place of its reward model."""
    shutil.rmtree(RUN / "reward")
    assert main(["fit", "--config", "reward.yaml", THREE]) == 0
    return trained


def test_members_are_trained_from_different_starts_on_different_pairs(ensemble: Path) -> None:
    weights = read_adapter(REWARD)
    members = [weights, *weights.members]
    assert len(members) == 3
    for member in members[1:]:
        assert member.head is not None
        assert weights.head is not None
        assert not torch.equal(member.head.weight, weights.head.weight)
        assert any(
            not torch.equal(up, weights.pairs[name][1]) for name, (_, up) in member.pairs.items()
        )


def test_the_card_tells_where_members_part(
    ensemble: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = read_report(REWARD)
    assert card is not None
    assert card.disagreement is not None
    assert len(card.disagreement.accuracies) == 3
    assert card.disagreement.split.n == 10
    assert card.disagreement.spread > 0
    assert "the first of an ensemble; 2 more lie in" in (REWARD / "README.md").read_text()
    main(["evaluate", "--reward", str(REWARD), "pairs.jsonl"])
    assert "3 members, right " in capsys.readouterr().out


def first_score(run: str, *keys: str) -> float:
    """What PPO's first responses, the same in every run, score on average."""
    parents = [f"--model.init_args.{stage}={RUN}/{stage}/artefact" for stage in ("sft", "reward")]
    assert main(["fit", "--config", "ppo.yaml", "--run", run, *parents, *keys]) == 0
    events = EventAccumulator(f"lightning_logs/{run}/ppo")
    events.Reload()
    return float(events.Scalars("objective/score")[0].value)


def test_ppo_takes_an_ensemble_and_what_to_make_of_it(ensemble: Path) -> None:
    mean = first_score("mean")
    assert first_score("min", "--model.init_args.objective.ensemble=min") < mean - 1e-4
    assert first_score("spread", "--model.init_args.objective.spread_coef=1.0") < mean - 1e-4


def test_an_exported_ensemble_still_agrees_with_stock_peft(ensemble: Path) -> None:
    assert main(["export", str(REWARD), "out"]) == 0
    assert len(read_adapter(Path("out")).members) == 2


def test_the_dry_run_counts_every_member(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[preflight.Writes] = []

    def note(*arguments: Any, **options: Any) -> preflight.Writes:
        said.append(preflight.require_space(*arguments, **options))
        return said[-1]

    monkeypatch.setattr("rlhf_forge.commands.dry_run.require_space", note)
    for options in ([], [THREE]):
        assert main(["fit", "--dry-run", "--config", "reward.yaml", *options]) == 0
    one, three = said
    assert three.checkpoint == 3 * one.checkpoint
    assert one.artefact < three.artefact < 3 * one.artefact, "there is one tokenizer"


def test_settings_that_say_nothing_are_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, _ = told(["fit", "--config", "reward.yaml", "--model.init_args.ensemble=0"], capsys)
    assert error == "model.init_args.ensemble must be 1 or more, got 0"
    keys = ["ensemble=min", "spread_coef=1"]
    both = [f"--model.init_args.objective.{key}" for key in keys]
    error, _ = told(["fit", "--config", "ppo.yaml", *both], capsys)
    assert "spread_coef must be 0 with ensemble: min, got 1" in error
