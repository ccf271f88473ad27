"""A policy's responses to held-out prompts, and what reward, reference and judge make of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_forge import ranks
from rlhf_forge.backbone.scoring import row_ends, row_width, score
from rlhf_forge.data.collate import own_micro_batches
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.evaluation.policies import Answers, asked_of
from rlhf_forge.functional.kl import kl_estimate
from rlhf_forge.generation.rows import join
from rlhf_forge.modules.goldens import require_golden
from rlhf_forge.modules.memory import Cuts, within_memory
from rlhf_forge.modules.responses import generated_held_out
from rlhf_forge.modules.roles import read_parent, require_its_reference

if TYPE_CHECKING:
    from rlhf_forge.modules.ppo import PPOModule

# A reward model that looks on is one more role; no objective reads it.
JUDGE = "judge"


@dataclass(frozen=True)
class Watched:
    """Responses to some prompts, and their worth; entry i of a list is of prompt i.

    Attributes:
        answers: With the KL from the reference.
        scores: Of the reward that PPO maximises, before it is clipped.
        models: Of each reward model that looks on, by its role.
    """

    answers: Answers
    scores: list[float]
    models: dict[str, list[float]]


def add_judge(module: "PPOModule", folder: str, role: str = JUDGE) -> None:
    """Load a second reward model beside the roles of PPO.

    Args:
        module: With its roles.
        folder: Artefact of the reward model.
        role: What to call it.

    Raises:
        UserError: If it is missing, does not fit, or reads likelihoods of another reference.
    """
    manifest, weights = read_parent(folder, module.expected, stage="reward")
    require_its_reference(weights, manifest, module.parents.get("sft"), where=folder)
    module.backbone.add_role(role, weights, trainable=False)
    precision = module.backbone_config.precision
    require_golden(module.backbone, role, manifest, precision=precision, where=folder)


def watched(
    module: "PPOModule", examples: Sequence[PromptExample], *, models: Sequence[str], when: str
) -> Watched:
    """Answer the prompts, with the same random numbers every time, and score the responses.

    Args:
        module: With its roles, and those of ``models``.
        examples: Held-out prompts.
        models: Roles of the reward models that look on.
        when: What to call this in a message.

    Raises:
        UserError: If a function of the reward gives no scores.
    """
    prompts = [list(example.tokens) for example in examples]
    responses = generated_held_out(module, module.role, prompts)
    tokens, mask = join(prompts, responses, module.backbone.device)
    lengths = row_ends(mask)
    numbers = ranks.summed(
        within_memory(
            module,
            lambda: own_micro_batches(lengths, max_tokens=module.micro_batch_tokens),
            partial(_numbers, module, tokens, mask, models),
        )
    ).cpu()
    texts = [module.template.decode(response.tokens) for response in responses]
    answers = Answers(texts, responses, numbers[0].tolist())

    def scores() -> list[float]:
        total = module.reward.scores(numbers[1], lambda: asked_of(examples, answers), when=when)
        found: list[float] = total.tolist()
        return found

    of_models = {role: numbers[2 + place].tolist() for place, role in enumerate(models)}
    return Watched(answers, ranks.from_first(scores), of_models)


@torch.no_grad()
def _numbers(
    module: "PPOModule",
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    models: Sequence[str],
    cuts: Cuts,
) -> Float[Tensor, "numbers batch"]:
    """KL, the reward model's score and those of the others; 0 for rows of other processes."""
    backbone, temperature = module.backbone, module.sampling.temperature
    numbers = torch.zeros(2 + len(models), len(tokens), device=tokens.device)
    for rows in cuts:
        width = row_width(mask[rows])
        part, targets = tokens[rows, :width], mask[rows, :width]
        with backbone.using("policy"):
            policy, _ = backbone.log_probs(part, targets, temperature=temperature)
        with backbone.using("reference"):
            reference, _ = backbone.log_probs(part, targets, temperature=temperature)
        kl = kl_estimate(policy, reference, estimator="k1")
        numbers[0, rows] = torch.where(targets, kl, 0.0).sum(-1)
        at_one = reference if temperature == 1.0 else None
        for place, role in enumerate(("reward", *models), start=1):
            if role in backbone.roles:
                numbers[place, rows] = score(
                    backbone, part, targets, role=role, ref_log_probs=at_one
                )
    return numbers
