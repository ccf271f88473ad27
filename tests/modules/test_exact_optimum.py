"""PPO lands where theory says: the whole of `training_step`, held against the best policy.

Nothing is replaced but the score, which is read from a table of random numbers. The best policy is
known because all responses can be listed. A fault in a sign, an index, the price of KL or the
temperature makes another policy the best one, and is seen here though every loss looks fine.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.data.collate import PromptBatch
from rlhf_forge.generation.decode import Response
from rlhf_forge.modules import responses
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.settings import (
    Advantage,
    ObjectiveSettings,
    RolloutSettings,
    UpdateSettings,
)
from tests import countable
from tests.countable import Size, Standing
from tests.countable_ppo import module_on, read_scores_from, train

pytestmark = pytest.mark.filterwarnings(
    "ignore:::lightning",
    "ignore:a response cut by the length limit scores",
    "ignore:.isinstance.treespec, LeafSpec:FutureWarning",
)
SMALL, LARGER = Size(vocab=3, longest=2), Size(vocab=4, longest=3)
PENALTY = 0.4
# Of a response that the length limit cut: the rule for these replaces it.
NEVER_READ = 99.0


@dataclass(frozen=True)
class Case:
    """A problem, and how it is learnt.

    Attributes:
        advantage: The estimator.
        beta: Score that a nat of KL from the reference costs.
        temperature: Of sampling.
        size: How many responses there are.
        iterations: Rollouts.
        rows: Responses of one rollout.
        each: Responses to one prompt in it.
        kl_in: Where the price is paid.
        cut: False if a response of the greatest length counts as finished.
        evenly: Whether a response comes as often as is likely, and not more or less by chance.
        seed: Of the scores.
        draws: Seed of the responses.
        updates: Keys of `UpdateSettings`.
    """

    advantage: Advantage = "gae"
    beta: float = 0.25
    temperature: float = 0.7
    size: Size = SMALL
    iterations: int = 50
    rows: int = 256
    each: int = 1
    kl_in: Literal["reward", "loss"] = "reward"
    cut: bool = True
    evenly: bool = False
    seed: int = 1
    draws: int = 0
    updates: dict[str, Any] = field(default_factory=dict)

    @override
    def __str__(self) -> str:
        return (
            f"{self.advantage}, beta {self.beta}, T {self.temperature}, {self.size}, cut {self.cut}"
        )

    def scores(self) -> Tensor:
        """Of every response to every prompt, [prompts, responses], as they are to be maximised."""
        generator = torch.Generator().manual_seed(self.seed)
        is_cut = countable.is_cut(self.size)
        scores = 2 * torch.rand(len(countable.PROMPTS), len(is_cut), generator=generator) - 1
        return torch.where(is_cut, -PENALTY, scores) if self.cut else scores

    def module(self) -> PPOModule:
        """What is to learn it: no limit bites, so that nothing stands between it and the best."""
        unlimited = {"target_kl": None, "value_clip_range": 1e9, "value_coef": 1.0}
        rates = {"learning_rate": 7e-3, "value_learning_rate": 1e-2}
        settings = {**unlimited, **rates, "minibatch_size": self.rows, **self.updates}
        return module_on(
            self.size,
            iterations=self.iterations,
            rollout=RolloutSettings(
                max_new_tokens=self.size.longest,
                temperature=self.temperature,
                max_rows=self.rows,
                responses_per_prompt=self.each,
            ),
            objective=ObjectiveSettings(
                kl_coef=self.beta,
                score_clip=NEVER_READ,
                missing_eos_penalty=PENALTY,
                kl_in=self.kl_in,
            ),
            updates=UpdateSettings(advantage=self.advantage, **settings),
            seed=self.draws,
        )

    def log_probs(self, backbone: Backbone, role: str) -> Tensor:
        """Of every response to every prompt."""
        return countable.response_log_probs(backbone, role, self.size, temperature=self.temperature)


def learnt(case: Case, patch: pytest.MonkeyPatch) -> PPOModule:
    read = torch.where(countable.is_cut(case.size) & case.cut, NEVER_READ, case.scores())
    read_scores_from(read, case.size, patch)
    if not case.cut:
        respond = responses.respond

        def respond_and_end(*args: Any, **options: Any) -> list[Response]:
            return [Response(r.tokens, finished=True) for r in respond(*args, **options)]

        patch.setattr(responses, "respond", respond_and_end)
    if case.evenly:
        patch.setattr(responses, "respond", partial(respond_evenly, case))
    return train(case.module(), prompts=case.rows // case.each)


def respond_evenly(
    case: Case, module: PPOModule, batch: PromptBatch, *, iteration: int, each: int
) -> list[Response]:
    """A systematic sample: of n responses to a prompt each comes n times its probability.

    They come in order, so all responses to a prompt must be one group: neighbours are alike.
    """
    listed = countable.all_responses(case.size)
    generator = torch.Generator().manual_seed(1000 * case.draws + iteration)
    probs = case.log_probs(module.backbone, "policy").exp()
    found = []
    for prompt in responses.rows_of(batch):
        marks = torch.arange(each) + torch.rand(1, generator=generator).double()
        edges = each * probs[countable.PROMPTS.index(prompt)].cumsum(0)
        drawn = torch.searchsorted(edges, marks).clamp_max(len(listed) - 1).tolist()
        found += [[*listed[number]] for number in drawn]
    return [Response(tokens, finished=tokens[-1] == countable.EOS) for tokens in found]


@dataclass(frozen=True)
class Landing:
    """Where a run began, where it ended, and where it should have."""

    first: Standing
    last: Standing
    best: Standing

    @property
    def kl_error(self) -> float:
        """Share of the best policy's KL by which the last one's is off."""
        return abs(self.last.kl / self.best.kl - 1)

    @property
    def score_error(self) -> float:
        """Share of the gain in score that is missing, or too much."""
        return abs(self.last.score - self.best.score) / (self.best.score - self.first.score)


def landing(case: Case, patch: pytest.MonkeyPatch) -> Landing:
    scores = case.scores().double()
    module = learnt(case, patch)
    policy, reference = (case.log_probs(module.backbone, r) for r in ("policy", "reference"))
    if case.kl_in == "loss":
        best = countable.best_token_by_token(reference, scores, case.size, beta=case.beta)
    else:
        best = countable.best(reference, scores, beta=case.beta)
    first, last, goal = (Standing.of(p, reference, scores) for p in (reference, policy, best))
    return Landing(first, last, goal)


LONG = Case(size=LARGER, seed=2, iterations=150, rows=512)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_listed_responses_are_all_there_are(temperature: float) -> None:
    """So what is read off a policy's log-probabilities here is exact."""
    case = Case(size=LARGER, temperature=temperature)
    for role in ("policy", "value"):
        log_probs = case.log_probs(countable.open_countable(case.size), role)
        assert log_probs.exp().sum(-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def goals(case: Case) -> tuple[Standing, Standing]:
    """Of the policies that are best as a whole, and token by token."""
    reference, scores = case.log_probs(countable.open_countable(case.size), "policy"), case.scores()
    best = countable.best(reference, scores, beta=case.beta)
    greedy = countable.best_token_by_token(reference, scores, case.size, beta=case.beta)
    return Standing.of(best, reference, scores), Standing.of(greedy, reference, scores)


def test_token_by_token_a_policy_goes_further_for_less_unless_a_response_is_one_token() -> None:
    case = replace(LONG, temperature=1.0)
    best, greedy = goals(case)
    assert greedy.kl > 1.1 * best.kl
    assert greedy.score - case.beta * greedy.kl < best.score - case.beta * best.kl
    best, greedy = goals(replace(case, size=Size(vocab=4, longest=1)))
    assert (greedy.kl, greedy.score) == pytest.approx((best.kl, best.score))


def test_ppo_lands_on_the_best_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    landed = landing(Case(), monkeypatch)
    assert landed.best.kl > 0.5
    assert landed.kl_error < 0.02
    assert landed.score_error < 0.02


SLOWLY = [
    *(
        replace(LONG, beta=beta, temperature=temperature)
        for beta in (0.25, 0.5)
        for temperature in (0.7, 1.0)
    ),
    replace(LONG, cut=False, seed=1),
    replace(LONG, advantage="rloo", each=4),
    replace(LONG, advantage="rloo", each=4, beta=0.5, temperature=1.0),
    replace(LONG, advantage="dr_grpo", each=8, updates={"loss_aggregation": "constant"}),
    replace(LONG, advantage="dr_grpo", each=8, beta=0.5, temperature=1.0),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOWLY, ids=str)
def test_every_estimator_lands_on_the_best_policy_at_any_price_and_temperature(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed = landing(case, monkeypatch)
    tolerance = 0.02 if case.advantage == "gae" else 0.03
    assert landed.kl_error < tolerance
    assert landed.score_error < tolerance


@pytest.mark.slow
def test_a_price_in_the_loss_lands_where_each_token_pays_for_itself_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Priced in the reward, a response that is worth its KL has an advantage of 0 at the goal, and
    # the noise of sampling ends there. Here it does not. Drawn by chance, four a group and for 300
    # iterations, runs of four seeds were off by -6.2, -4.4, -2.2 and -1.3 % of the KL; gradients
    # summed over all responses by -0.2 %. So responses are drawn evenly, and each is compared with
    # all others: -0.9, -0.5, +0.4 and +1.1 %. 3 % is three standard deviations of that.
    case = replace(LONG, advantage="rloo", each=256, kl_in="loss", evenly=True)
    landed = landing(case, monkeypatch)
    assert landed.kl_error < 0.03
    assert landed.score_error < 0.03
