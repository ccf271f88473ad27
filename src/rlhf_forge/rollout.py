"""One iteration's experience: sampled responses, what every role makes of them, minibatches.

One coordinate system throughout: entry [b, t] of any tensor belongs to token t of row b. Rows hold
prompt and response right-padded; ``mask`` is True on the response's tokens, its end-of-sequence
token included. What a token was predicted from stands one to its left, and only `Backbone` and
`values_before` ever shift.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import chain
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_forge import ranks
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.packing import to_the_left
from rlhf_forge.backbone.scoring import row_ends, row_width, score, values_before
from rlhf_forge.data.collate import micro_batches, own_micro_batches
from rlhf_forge.functional.ensembles import ensemble_score
from rlhf_forge.randomness import generator


@dataclass(frozen=True)
class Rollout:
    """Sampled responses and their scores under each role; all float32, 0 outside ``mask``.

    Attributes:
        tokens: Prompt and response, right-padded with 0.
        mask: True on response tokens.
        finished: False where the length limit cut the response.
        log_probs: Of the policy as it sampled, by the training forward.
        ref_log_probs: Of the reference.
        values: Critic's estimate before each response token; 0 without a critic.
        scores: Of each response: normalised reward-model scores, read at the last token; 0 without
            a reward model.
        entropy: Of the policy where each response token was drawn, in nats.
    """

    tokens: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    finished: Bool[Tensor, "batch"]
    log_probs: Float[Tensor, "batch time"]
    ref_log_probs: Float[Tensor, "batch time"]
    values: Float[Tensor, "batch time"]
    scores: Float[Tensor, "batch"]
    entropy: Float[Tensor, "batch time"]


@dataclass(frozen=True)
class Experience:
    """What an update reads, for some rows; entries as in `Rollout`.

    ``learnt`` is True on the response tokens to learn from; all others go through the forward as
    they did in scoring, so that the shapes are the same. Without a critic ``returns`` is 0.
    """

    tokens: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]
    learnt: Bool[Tensor, "batch time"]
    old_log_probs: Float[Tensor, "batch time"]
    ref_log_probs: Float[Tensor, "batch time"]
    old_values: Float[Tensor, "batch time"]
    advantages: Float[Tensor, "batch time"]
    returns: Float[Tensor, "batch time"]

    @classmethod
    def of(cls, rollout: Rollout, learnt: Tensor, advantages: Tensor, returns: Tensor) -> Self:
        """What is learnt from a rollout, all [batch, time]."""
        return cls(
            tokens=rollout.tokens,
            mask=rollout.mask,
            learnt=learnt,
            old_log_probs=rollout.log_probs,
            ref_log_probs=rollout.ref_log_probs,
            old_values=rollout.values,
            advantages=advantages,
            returns=returns,
        )

    def rows(self, index: Sequence[int]) -> Self:
        """These rows only, cut to the longest of them."""
        chosen = torch.tensor(index, device=self.tokens.device)
        width = row_width(self.mask[chosen])
        return replace(
            self, **{f.name: getattr(self, f.name)[chosen, :width] for f in fields(self)}
        )


@dataclass(frozen=True)
class RowTokens:
    """What rows of a rollout cost in a forward, in tokens.

    Attributes:
        ends: Tokens of each row, prompt and response.
        firsts: For each row the first row with the same prompt; itself, where prompts are not
            shared.
        prompts: Tokens of each row's prompt.
    """

    ends: list[int]
    firsts: list[int]
    prompts: list[int]

    @classmethod
    def of(
        cls, tokens: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"], *, pads: bool
    ) -> Self:
        """Of a rollout's rows.

        Args:
            tokens: Prompt and response, right-padded.
            mask: True on response tokens.
            pads: Whether every row is computed by itself, as the stock decoder does. If not, a
                prompt that rows of a micro-batch have in common is computed once.
        """
        ends, prompts = row_ends(mask), mask.int().argmax(1).tolist()
        if pads:
            return cls(ends, list(range(len(ends))), prompts)
        seen: dict[tuple[int, ...], int] = {}
        texts = (tuple(row[:length]) for row, length in zip(tokens.tolist(), prompts, strict=True))
        return cls(ends, [seen.setdefault(text, row) for row, text in enumerate(texts)], prompts)

    def together(self, rows: Sequence[int], max_tokens: int) -> list[list[int]]:
        """The rows that are not to be parted: those of a prompt, as far as ``max_tokens`` go."""
        by_prompt: dict[int, list[list[int]]] = {}
        for row in rows:
            parts = by_prompt.setdefault(self.firsts[row], [[]])
            if parts[-1] and self.cost([*parts[-1], row]) > max_tokens:
                parts.append([])
            parts[-1].append(row)
        return [*chain.from_iterable(by_prompt.values())]

    def cost(self, rows: Sequence[int]) -> int:
        """Of rows of one prompt."""
        return sum(self.ends[row] for row in rows) - (len(rows) - 1) * self.prompts[rows[0]]

    def cut(
        self, rows: Sequence[int], how: Callable[..., list[list[int]]], max_tokens: int
    ) -> list[list[int]]:
        """Micro-batches of some rows, as ``how`` cuts what each prompt's rows cost."""
        units = self.together(rows, max_tokens)
        cuts = how([self.cost(unit) for unit in units], max_tokens=max_tokens)
        return [[row for place in places for row in units[place]] for places in cuts]

    def fits(self, rows: Sequence[int], max_tokens: int) -> bool:
        """Whether ``cut`` may have left these rows together."""
        units = self.together(rows, max_tokens)
        return len(rows) == 1 or len(units) * max(map(self.cost, units)) <= max_tokens


# For each epoch its minibatches, for each minibatch its micro-batches, for each its row numbers: of
# several processes each has the rows that it works on.
Plan = list[list[list[list[int]]]]


def plan_updates(
    row_tokens: RowTokens,
    *,
    epochs: int,
    minibatch_size: int,
    max_tokens: int,
    seed: int,
    iteration: int,
    pads: bool = True,
) -> Plan:
    """Which rows meet in which micro-batch: a fresh permutation each epoch.

    Args:
        row_tokens: Of the rollout; rows of one prompt that meet in a minibatch stay together.
        epochs: Passes over the rollout.
        minibatch_size: Rows of one optimiser step.
        max_tokens: Tokens of one micro-batch; see `micro_batches`.
        seed: Of the run.
        iteration: The permutation is a function of (seed, iteration, epoch).
        pads: Whether padding costs time; see `micro_batches`.

    Raises:
        ValueError: If ``minibatch_size`` does not divide the rollout.
    """
    count = len(row_tokens.ends)
    if count % minibatch_size:
        raise ValueError(
            f"minibatch_size must divide the rollout: {count} responses in minibatches of "
            f"{minibatch_size} leave {count % minibatch_size}"
        )
    plan: Plan = []
    for epoch in range(epochs):
        order = generator(seed, "shuffle", iteration, epoch).permutation(count)
        chunks = order.reshape(-1, minibatch_size).tolist()
        cut = partial(own_micro_batches, pads=pads)
        plan.append([row_tokens.cut(rows, cut, max_tokens) for rows in chunks])
    return plan


@torch.no_grad()
def score_rollout(
    backbone: Backbone,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    finished: Bool[Tensor, "batch"],
    *,
    batches: Sequence[Sequence[int]],
    temperature: float,
    together: Callable[[Tensor], Tensor] = ensemble_score,
) -> Rollout:
    """What policy, reference, critic and reward model make of sampled responses.

    Args:
        backbone: With the roles policy and reference; and value and reward, if there are a critic
            and a reward model.
        tokens: Prompt and response, right-padded.
        mask: True on response tokens.
        finished: False where the length limit cut the response.
        batches: Rows scored together; all numbers of other rows are 0. If these are the
            micro-batches of the first epoch, the first update sees the very same numbers and its
            ratio is exactly 1.
        temperature: The responses were sampled at.
        together: Makes one score of those of an ensemble's members.
    """
    blank = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
    rollout = Rollout(
        tokens=tokens,
        mask=mask,
        finished=finished,
        log_probs=blank.clone(),
        ref_log_probs=blank.clone(),
        values=blank.clone(),
        scores=blank[:, 0].clone(),
        entropy=blank.clone(),
    )
    for batch in batches:
        rows = torch.tensor(batch, device=tokens.device)
        width = row_width(mask[rows])
        part, targets = tokens[rows, :width], mask[rows, :width]
        with backbone.using("policy"):
            log_probs, entropy = backbone.log_probs(part, targets, temperature=temperature)
        with backbone.using("reference"):
            reference, _ = backbone.log_probs(part, targets, temperature=temperature)
        if "value" in backbone.roles:
            with backbone.using("value"):
                scalars = backbone.scalars(part, to_the_left(targets))
            rollout.values[rows, :width] = values_before(scalars, targets)
        rollout.log_probs[rows, :width] = log_probs
        rollout.entropy[rows, :width] = entropy
        rollout.ref_log_probs[rows, :width] = reference
        if "reward" in backbone.roles:
            at_one = reference if temperature == 1.0 else None
            rollout.scores[rows] = score(
                backbone, part, targets, ref_log_probs=at_one, together=together
            )
    return rollout


def put_together(rollout: Rollout) -> Rollout:
    """The rollout whose rows several processes have scored, each some."""
    scored = ("log_probs", "ref_log_probs", "values", "scores", "entropy")
    return replace(rollout, **{name: ranks.summed(getattr(rollout, name)) for name in scored})


def fitting(
    minibatch: list[list[int]], row_tokens: RowTokens, *, max_tokens: int
) -> list[list[int]]:
    """Micro-batches of a plan as they are; cut anew if they are larger than is allowed by now.

    Args:
        minibatch: For each micro-batch its row numbers.
        row_tokens: Of the rollout.
        max_tokens: Tokens of one micro-batch, if it is no single row.
    """
    if all(row_tokens.fits(rows, max_tokens) for rows in minibatch):
        return minibatch
    return row_tokens.cut([*chain.from_iterable(minibatch)], micro_batches, max_tokens)
