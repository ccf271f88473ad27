"""The first half of an iteration of PPO: from prompts to responses, and to what they are worth."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from jaxtyping import Bool, Int
from torch import Tensor

from rlhf_forge import ranks
from rlhf_forge.backbone.freed_memory import give_freed_memory_back
from rlhf_forge.backbone.scoring import row_ends
from rlhf_forge.data.collate import PromptBatch, own_micro_batches
from rlhf_forge.data.records import Record
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.evaluation.rewards import Asked
from rlhf_forge.functional.ensembles import ensemble_score
from rlhf_forge.modules.memory import Cuts, within_memory
from rlhf_forge.modules.responses import HELD_OUT, sample
from rlhf_forge.modules.roles import data_of
from rlhf_forge.rollout import (
    Plan,
    Rollout,
    RowTokens,
    plan_updates,
    put_together,
    score_rollout,
)

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
    each = module.responses_per_prompt
    with module.timed("generate"):
        sampled = sample(module, batch, iteration=module.iteration, each=each)
    if module.device.type == "cpu":
        # The update's tensors are of other sizes, and would lie beside what was generated in.
        give_freed_memory_back()
    record_at = data_of(module).record_at
    records = [record_at(place) for place in batch.positions.tolist() for _ in range(each)]
    plan = partial(_plan, module, RowTokens.of(*sampled[:2], pads=module.backbone.pads))
    with module.timed("score"):
        rollout = scored(module, sampled, records, lambda: [*chain.from_iterable(plan()[0])])
    return rollout, plan()


def collect_held_out(module: "PPOModule", batch: PromptBatch) -> Rollout:
    """One response to each held-out prompt, scored as those that are learnt from."""
    sampled = sample(module, batch, iteration=HELD_OUT)
    records = [module.held_out[place].record for place in batch.positions.tolist()]
    lengths = row_ends(sampled[1])
    return scored(
        module,
        sampled,
        records,
        lambda: own_micro_batches(lengths, max_tokens=module.micro_batch_tokens),
    )


def scored(
    module: "PPOModule",
    sampled: Sampled,
    records: Sequence[Record],
    cut: Callable[[], Cuts],
) -> Rollout:
    """Responses with what every role makes of them, and the scores that PPO maximises.

    Args:
        module: With the roles of `score_rollout`.
        sampled: The responses.
        records: What each of them answers.
        cut: Gives the rows that the roles score together, by the module's present size; a function
            of the reward is given all at once, and once.
    """
    temperature = module.sampling.temperature
    together = partial(
        ensemble_score,
        combination=module.objective.ensemble,
        spread_coef=module.objective.spread_coef,
    )
    rollout = put_together(
        within_memory(
            module,
            cut,
            lambda cuts: score_rollout(
                module.backbone,
                *sampled,
                batches=cuts,
                temperature=temperature,
                together=together,
            ),
        )
    )

    def scores() -> Tensor:
        return module.reward.scores(
            rollout.scores,
            lambda: asked_of(rollout, records, module.template),
            when=f"iteration {module.iteration}",
        ).cpu()

    return replace(rollout, scores=ranks.from_first(scores).to(rollout.scores.device))


def _plan(module: "PPOModule", row_tokens: RowTokens) -> Plan:
    """Of the iteration's updates, in micro-batches of the module's present size."""
    return plan_updates(
        row_tokens,
        epochs=module.update_settings.ppo_epochs,
        minibatch_size=module.update_settings.minibatch_size,
        max_tokens=module.micro_batch_tokens,
        pads=module.backbone.pads,
        seed=module.seed,
        iteration=module.iteration,
    )


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
