"""What the reward stage learns from a pair, against numbers worked out by hand."""

from math import exp, log
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import DataLoader

from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.collate import PairBatch, collate_pairs
from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.data.tokenize import PairExample
from rlhf_forge.errors import UserError
from rlhf_forge.modules.reward import RewardModule
from rlhf_forge.modules.reward_update import PairLoss, wins, won
from tests import tiny

pytestmark = pytest.mark.filterwarnings(
    "ignore:::lightning", "ignore:.isinstance.treespec, LeafSpec:FutureWarning"
)
MARGINS, PREFERENCES, WEIGHTS = (2.0, None, 0.5), (0.75, 0.5, None), (1.5, 0.5, 1.0)
LENGTHS = ((9, 6), (5, 11), (7, 7))
# One option by itself and all at once, each with what it makes of the others' defaults.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"margin_coef": 0.4},
    {"soft_labels": True},
    {"label_smoothing": 0.2},
    {"centering_coef": 0.3},
    {"margin_coef": 0.4, "soft_labels": True, "label_smoothing": 0.2, "centering_coef": 0.3},
]


def pair(number: int, *, labelled: bool) -> PairExample:
    chosen, rejected = (tiny.rows(length, seed=number)[0].tolist() for length in LENGTHS[number])
    record = Pair(user("a"), assistant("b"), assistant("c"), "here", {})
    sides = (chosen, rejected[::-1], [True] * len(chosen), [True] * len(rejected))
    if not labelled:
        return PairExample(*sides, record)
    known = Pair(*_four(record), {}, MARGINS[number], PREFERENCES[number])
    return PairExample(*sides, known, WEIGHTS[number])


def _four(record: Pair) -> tuple[Any, Any, Any, str]:
    return record.prompt, record.chosen, record.rejected, record.origin


def batch_of(*, labelled: bool = True) -> PairBatch:
    return collate_pairs([(number, pair(number, labelled=labelled)) for number in range(3)])


def by_hand(chosen: list[float], rejected: list[float], **options: Any) -> list[float]:
    """The loss of each pair, from the formula in the docstring of the loss."""
    losses = []
    for number, (c, r) in enumerate(zip(chosen, rejected, strict=True)):
        p = 1.0
        if options.get("soft_labels"):
            p = (0.75, 0.5, 1.0)[number]
        smoothing = options.get("label_smoothing", 0.0)
        p = p * (1 - smoothing) + (1 - p) * smoothing
        lead = c - r - options.get("margin_coef", 0.0) * (2.0, 0.0, 0.5)[number]
        loss = p * log(1 + exp(-lead)) + (1 - p) * log(1 + exp(lead))
        losses.append(loss + options.get("centering_coef", 0.01) * (c + r) ** 2)
    return losses


def ready(**options: Any) -> RewardModule:
    module = RewardModule(BackboneConfig("none", "fp32"), **options)
    module.backbone = tiny.open_tiny()
    scorer = tiny.random_weights(module.backbone, seed=1, head=True)
    module.backbone.add_role("reward", scorer, trainable=True)
    module.setup = lambda stage: None  # type: ignore[method-assign] # there is no data module
    return module


@torch.no_grad()
def scores_of(module: RewardModule, batch: PairBatch) -> Tensor:
    return score(module.backbone, batch.tokens, batch.response).view(2, -1)


@pytest.mark.parametrize("micro_batch_tokens", [8192, 16])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_training_step_has_the_loss_and_accuracy_worked_out_by_hand(
    options: dict[str, Any], micro_batch_tokens: int
) -> None:
    module = ready(micro_batch_tokens=micro_batch_tokens, **options)
    batch = batch_of()
    chosen, rejected = scores_of(module, batch).tolist()
    trainer = tiny.trainer()
    trainer.fit(module, DataLoader([batch], batch_size=None))  # type: ignore[arg-type] # a list will do
    losses = by_hand(chosen, rejected, **options)
    expected = sum(w * loss for w, loss in zip(WEIGHTS, losses, strict=True)) / 3
    assert trainer.callback_metrics["reward/loss"].item() == pytest.approx(expected, rel=1e-5)
    right = sum(w for w, c, r in zip(WEIGHTS, chosen, rejected, strict=True) if c > r) / 3
    assert trainer.callback_metrics["reward/accuracy"].item() == pytest.approx(right)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_held_out_pairs_have_the_same_loss(options: dict[str, Any]) -> None:
    module = ready(**options)
    batch = batch_of()
    chosen, rejected = scores_of(module, batch).tolist()
    (logged,) = tiny.trainer().validate(
        module,
        DataLoader([batch], batch_size=None),  # type: ignore[arg-type] # a list will do
        verbose=False,
    )
    losses = by_hand(chosen, rejected, **options)
    expected = sum(w * loss for w, loss in zip(WEIGHTS, losses, strict=True)) / 3
    assert logged["val/loss"] == pytest.approx(expected, rel=1e-5)
    right = sum(w for w, c, r in zip(WEIGHTS, chosen, rejected, strict=True) if c > r) / 3
    assert logged["val/accuracy"] == pytest.approx(right)


def test_every_option_moves_the_loss_by_itself() -> None:
    numbers = [round(sum(by_hand([0.3, -1.0, 2.0], [0.1, 0.5, 1.0], **o)), 6) for o in OPTIONS]
    assert len(set(numbers)) == len(OPTIONS)


@pytest.mark.parametrize("options", OPTIONS[1:3], ids=str)
def test_margins_and_preferences_are_not_read_unless_asked_for(options: dict[str, Any]) -> None:
    chosen, rejected = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.1, 0.5, 1.0])
    bare, known = batch_of(labelled=False), batch_of()._replace(weight=None)
    losses = [
        module.loss(batch, chosen, rejected, num_pairs=3)
        for module, batch in ((ready(), bare), (ready(), known), (ready(**options), known))
    ]
    assert torch.equal(losses[0], losses[1])
    assert not torch.isclose(losses[0], losses[2])


def test_one_pair_with_all_that_is_known_of_it() -> None:
    """Lead 1 - 0.5 * 2 = 0, so either way is log 2; centring adds 0.1 * (2 + 1)^2; half weight."""
    batch = batch_of()._replace(
        margin=torch.tensor([2.0]),
        preference=torch.tensor([0.9]),
        weight=torch.tensor([0.5]),
        positions=torch.tensor([0]),
    )
    loss = PairLoss(0.1, 0.1, 0.5, soft_labels=True)
    found = loss(batch, torch.tensor([2.0]), torch.tensor([1.0]), num_pairs=1)
    assert_close(found, torch.tensor(0.5 * (log(2) + 0.9)))


def test_equal_scores_win_half_and_a_win_counts_what_its_pair_does() -> None:
    chosen, rejected = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0])
    assert wins(chosen, rejected).tolist() == [1.0, 0.0, 0.5]
    assert won(batch_of(), chosen, rejected).tolist() == [1.5, 0.0, 0.5]
    assert won(batch_of(labelled=False), chosen, rejected).tolist() == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("options", "key", "label"),
    [
        ({"margin_coef": 1.0}, "margin_coef", "margin"),
        ({"soft_labels": True}, "soft_labels", "preference"),
    ],
)
def test_an_option_that_no_pair_of_the_data_serves_is_refused_before_training(
    options: dict[str, Any], key: str, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = RewardModule(BackboneConfig("none", "fp32"), **options)
    examples = [pair(number, labelled=False) for number in range(3)]
    data = SimpleNamespace(held_out=examples, train=SimpleNamespace(examples=examples))
    monkeypatch.setattr("rlhf_forge.modules.reward.data_of", lambda module: data)
    with pytest.raises(UserError, match=f"{key}: no pair of the data has a {label}") as caught:
        module.setup("fit")
    assert "docs/formats.md" in str(caught.value.hint)
    module.setup("validate")
    examples.append(pair(0, labelled=True))
    module.setup("fit")


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"label_smoothing": 0.5}, "label_smoothing must be in [0, 0.5), got 0.5"),
        ({"margin_coef": -1.0}, "margin_coef must be 0 or more and finite, got -1.0"),
        ({"centering_coef": float("inf")}, "centering_coef must be 0 or more and finite, got inf"),
    ],
)
def test_a_number_out_of_range_is_refused(settings: dict[str, float], rule: str) -> None:
    whole = {"label_smoothing": 0.0, "centering_coef": 0.0, "margin_coef": 0.0} | settings
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared
        PairLoss(**whole, soft_labels=False)
    assert str(caught.value) == rule
