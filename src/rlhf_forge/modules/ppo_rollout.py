"""The first half of an iteration of PPO: from prompts to responses, and to what they are worth."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from jaxtyping import Bool, Int
from torch import Tensor

from rlhf_forge.backbone.scoring import row_ends
from rlhf_forge.data.collate import PromptBatch, micro_batches
from rlhf_forge.data.records import Record
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.evaluation.rewards import Asked
from rlhf_forge.modules.responses import HELD_OUT, sample
from rlhf_forge.modules.roles import data_of
from rlhf_forge.rollout import Plan, Rollout, plan_updates, score_rollout

if TYPE_CHECKING:
    from rlhf_forge.modules.ppo import PPOModule

# Tokens, mask of the response and what ended itself, as `sample` gives them.
Sampled = tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"], Bool[Tensor, "batch"]]


def collect(module: "PPOModule", batch: PromptBatch) -> tuple[Rollout, Plan]:
    """Sample responses to every prompt and score them under every role.

    The plan of the updates is drawn first: what is scored on the micro-batches of the first epoch
    gives the first update a ratio of exactly 1.

    Raises:
        UserError: If a function of the reward gives no scores.
    """
    each, settings = module.responses_per_prompt, module.update_settings
    with module.timed("generate"):
        sampled = sample(module, batch, iteration=module.iteration, each=each)
    plan = plan_updates(
        row_ends(sampled[1]),
        epochs=settings.ppo_epochs,
        minibatch_size=settings.minibatch_size,
        max_tokens=settings.micro_batch_tokens,
        seed=module.seed,
        iteration=module.iteration,
    )
    record_at = data_of(module).record_at
    records = [record_at(place) for place in batch.positions.tolist() for _ in range(each)]
    first_epoch = [rows for minibatch in plan[0] for rows in minibatch]
    with module.timed("score"):
        return scored(module, sampled, records, first_epoch), plan


def collect_held_out(module: "PPOModule", batch: PromptBatch) -> Rollout:
    """One response to each held-out prompt, scored as those that are learnt from."""
    sampled = sample(module, batch, iteration=HELD_OUT)
    records = [module.held_out[place].record for place in batch.positions.tolist()]
    max_tokens = module.update_settings.micro_batch_tokens
    return scored(
        module, sampled, records, micro_batches(row_ends(sampled[1]), max_tokens=max_tokens)
    )


def scored(
    module: "PPOModule",
    sampled: Sampled,
    records: Sequence[Record],
    batches: Sequence[Sequence[int]],
) -> Rollout:
    """Responses with what every role makes of them, and the scores that PPO maximises.

    Args:
        module: With the roles of `score_rollout`.
        sampled: The responses.
        records: What each of them answers.
        batches: Rows scored together by the roles; a function of the reward is given all at once.
    """
    temperature = module.sampling.temperature
    rollout = score_rollout(module.backbone, *sampled, batches=batches, temperature=temperature)
    scores = module.reward.scores(
        rollout.scores,
        lambda: asked_of(rollout, records, module.template),
        when=f"iteration {module.iteration}",
    )
    return replace(rollout, scores=scores)


def asked_of(rollout: Rollout, records: Sequence[Record], template: ChatTemplate) -> Asked:
    """The responses as a function of the reward is given them.

    Args:
        rollout: The responses.
        records: What each of them answers.
        template: Decodes them.
    """
    rows = zip(rollout.tokens, rollout.mask, strict=True)
    finished = rollout.finished.tolist()
    return Asked(
        prompts=[record.prompt for record in records],
        responses=[template.decode(tokens[mask].tolist()) for tokens, mask in rows],
        records=[
            record.fields | {"finished": ended}
            for record, ended in zip(records, finished, strict=True)
        ],
    )
