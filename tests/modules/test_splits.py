"""How a step is cut into micro-batches changes nothing, and a row does not feel its neighbours.

In float64 to twelve digits, so that not a single token is weighed by the company it keeps; in
float32 to what rounding allows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.scoring import score, values_before
from rlhf_forge.data.collate import PairBatch, SequenceBatch
from rlhf_forge.modules import reward, sft
from rlhf_forge.modules.optimisation import Step, apply_gradients
from rlhf_forge.modules.ppo_update import Counts, PolicyTerms, accumulate
from rlhf_forge.modules.reward import RewardModule
from rlhf_forge.modules.settings import UpdateSettings
from rlhf_forge.modules.sft import SFTModule
from rlhf_forge.rollout import Experience
from tests import tiny
from tests.exact import in_float64

pytestmark = pytest.mark.filterwarnings(
    "ignore:::lightning", "ignore:.isinstance.treespec, LeafSpec:FutureWarning"
)
Cuts = list[list[int]]
STARTS, ENDS = (4, 2, 1, 6, 3, 2, 5, 1), (9, 14, 3, 11, 4, 12, 7, 10)
TOKENS, MASK = tiny.rows(*ENDS), tiny.spans(*zip(STARTS, ENDS, strict=True))
REAL = tiny.spans(*((0, end) for end in ENDS))
WHOLE: Cuts = [list(range(8))]
SPLITS: list[Cuts] = [
    [[5, 0, 3, 1], [7, 2, 6, 4]],
    [[4, 1, 0], [6], [2, 7, 3, 5]],
    [[1, 5], [7, 3], [0, 6], [4, 2]],
    [[row] for row in (3, 0, 7, 1, 6, 2, 5, 4)],
]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
in_both_precisions = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
BASE = BackboneConfig("none", "fp32")


def backbone_in(dtype: torch.dtype) -> Backbone:
    backbone = tiny.open_tiny()
    sft_weights = tiny.random_weights(backbone, seed=0)
    scorer = tiny.random_weights(backbone, seed=1, head=True)
    assert scorer.head is not None
    surprised = replace(scorer, head=replace(scorer.head, likelihood=0.5, likelihood_mean=-1.0))
    backbone.add_role("reference", sft_weights, trainable=False)
    backbone.add_role("policy", sft_weights, trainable=True)
    backbone.add_role("reward", surprised, trainable=True)
    backbone.add_role("value", scorer, trainable=True)
    return in_float64(backbone) if dtype == torch.float64 else backbone


def gradient_of(backbone: Backbone, *roles: str) -> Tensor:
    found = [p.grad for role in roles for p in backbone.parameters_of(role)]
    return torch.cat([grad.flatten() for grad in found if grad is not None])


def require_same(gradients: Callable[[Cuts], Tensor], dtype: torch.dtype) -> None:
    whole = gradients(WHOLE)
    assert whole.dtype == dtype
    assert whole.norm() > 1e-3
    for cuts in SPLITS:
        assert (gradients(cuts) - whole).norm() <= TOLERANCES[dtype] * whole.norm()


def gradient_of_a_step(
    module: LightningModule, batch: Any, source: Any, patch: pytest.MonkeyPatch
) -> Tensor:
    """What one training step hands to the optimiser."""
    seen: list[Tensor] = []

    def looked_at(
        module: LightningModule, groups: Mapping[str, Sequence[nn.Parameter]], **options: Any
    ) -> Step:
        grads = [p.grad for group in groups.values() for p in group]
        seen.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
        return apply_gradients(module, groups, **options)

    patch.setattr(source, "apply_gradients", looked_at)
    tiny.trainer().fit(module, DataLoader([batch], batch_size=None))  # type: ignore[arg-type] # a list will do
    (gradient,) = seen
    return gradient


@in_both_precisions
def test_sft_has_the_same_gradient_however_a_step_is_cut(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = SequenceBatch(TOKENS, REAL, MASK, torch.arange(8))

    def gradients(cuts: Cuts) -> Tensor:
        module = SFTModule(BASE)
        module.backbone = backbone_in(dtype)
        monkeypatch.setattr(module, "_cuts", lambda batch: cuts)
        return gradient_of_a_step(module, batch, sft, monkeypatch)

    require_same(gradients, dtype)


@in_both_precisions
def test_reward_training_has_the_same_gradient_however_a_step_is_cut(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tiny.rows(*ENDS[::-1], seed=1)
    real = torch.cat([REAL, REAL.flip(0)])
    batch = PairBatch(
        torch.cat([TOKENS, others]), real, torch.cat([MASK, MASK.flip(0)]), torch.arange(8)
    )

    def gradients(cuts: Cuts) -> Tensor:
        module = RewardModule(BASE, label_smoothing=0.1)
        module.backbone = backbone_in(dtype)
        monkeypatch.setattr(module, "setup", lambda stage: None)
        monkeypatch.setattr(module, "_cuts", lambda batch: cuts)
        return gradient_of_a_step(module, batch, reward, monkeypatch)

    require_same(gradients, dtype)


def experience_in(dtype: torch.dtype) -> Experience:
    """Of a policy and a critic that have moved since, so that clipping has something to do."""
    backbone = backbone_in(dtype)
    generator = torch.Generator().manual_seed(3)
    noise = 0.3 * torch.randn(4, *TOKENS.shape, generator=generator).to(dtype)
    with torch.no_grad():
        with backbone.using("policy"):
            log_probs, _ = backbone.log_probs(TOKENS, MASK, temperature=0.7)
        with backbone.using("value"):
            values = values_before(backbone.scalars(TOKENS), MASK)
    return Experience(
        tokens=TOKENS,
        mask=MASK,
        learnt=MASK & (torch.arange(8) != 2).unsqueeze(1),
        old_log_probs=log_probs + noise[0],
        ref_log_probs=log_probs - 0.2,
        old_values=values + noise[1],
        advantages=noise[2],
        returns=noise[3],
    )


@in_both_precisions
@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_ppo_has_the_same_gradient_however_a_step_is_cut(
    dtype: torch.dtype, aggregation: Any
) -> None:
    experience = experience_in(dtype)
    settings = UpdateSettings(loss_aggregation=aggregation, entropy_coef=0.1, value_coef=0.5)
    terms = PolicyTerms(temperature=0.7, max_new_tokens=12, kl_coef=0.2)

    def gradients(cuts: Cuts, *roles: str) -> Tensor:
        backbone = backbone_in(dtype)
        parts = [experience.rows(rows) for rows in cuts]
        counts = Counts.of([part.learnt for part in parts], terms.max_new_tokens)
        stats = accumulate(
            backbone, parts, settings, terms, backward=torch.autograd.backward, counts=counts
        )
        assert 0 < stats.clip_fraction < 1
        assert 0 < stats.value_clip_fraction < 1
        return gradient_of(backbone, *roles)

    require_same(lambda cuts: gradients(cuts, "policy"), dtype)
    require_same(lambda cuts: gradients(cuts, "value"), dtype)


@in_both_precisions
def test_a_row_alone_is_the_row_in_a_padded_batch(dtype: torch.dtype) -> None:
    backbone = backbone_in(dtype)

    @torch.no_grad()
    def numbers(tokens: Tensor, mask: Tensor) -> Tensor:
        """Of each row: log-probs, entropies and values, and the score in a last column."""
        with backbone.using("policy"):
            log_probs = backbone.log_probs(tokens, mask, temperature=0.7)
        with backbone.using("value"):
            values = values_before(backbone.scalars(tokens), mask)
        scores = score(backbone, tokens, mask).unsqueeze(1)
        return torch.cat([*log_probs, values, scores], dim=1)

    together = numbers(TOKENS, MASK)
    for row, end in enumerate(ENDS):
        alone = numbers(TOKENS[[row], :end], MASK[[row], :end])
        width = TOKENS.shape[1]
        columns = [part * width + at for part in range(3) for at in range(end)] + [3 * width]
        largest = together[row].abs().max()
        assert (together[row, columns] - alone[0]).abs().max() <= TOLERANCES[dtype] * largest
