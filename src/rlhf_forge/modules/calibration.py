"""The scale of a reward model: which score counts as 0, and which distance as 1."""

from collections.abc import Callable
from functools import partial
from math import isfinite

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import members_of, reference_surprise, scalar_at_end, score
from rlhf_forge.errors import UserError
from rlhf_forge.generation.rows import per_row

Scorer = Callable[[Tensor, Tensor], Tensor]
# A standard deviation needs two.
LEAST_RESPONSES = 2


def require_enough_held_out(count: int) -> None:
    """Refuse to train a reward model that could not be scaled afterwards.

    Args:
        count: Of the held-out records, each of which gives a prompt.

    Raises:
        UserError: If there are too few.
    """
    if count < LEAST_RESPONSES:
        raise UserError(
            "data: scores are centred and scaled on responses to held-out prompts, so at least "
            f"{LEAST_RESPONSES} records must be held out; there {'is' if count == 1 else 'are'} "
            f"{count}",
            hint="raise data.validation_fraction or data.validation_limit, or give data.validation "
            "a file",
        )


def scale_on(
    backbone: Backbone,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    max_tokens: int,
) -> None:
    """Give the scores of the role ``reward`` mean 0 and standard deviation 1 on these responses.

    Of an ensemble so have the scores of each member, and then their mean: members that disagree
    have a mean of less spread.

    The likelihood feature is centred by itself, so that what is left without it, which is what a
    critic starts from, has mean 0 too.

    Args:
        backbone: With the role reward, and reference if the likelihood feature is on.
        tokens: Right-padded prompts and responses.
        mask: True on response tokens.
        max_tokens: Padded tokens of one forward.

    Raises:
        UserError: If the scores have no spread to scale by.
    """
    numbers = partial(per_row, tokens=tokens, mask=mask, max_tokens=max_tokens)
    members = members_of(backbone, "reward")
    for member in members:
        _scale(backbone, member, numbers)
    if len(members) > 1:
        std = _spread(numbers(partial(score, backbone, role="reward")))
        for member in members:
            own = backbone.head(member).weights()
            backbone.set_scale(
                member, mean=own.mean, std=own.std * std, likelihood_mean=own.likelihood_mean
            )


def _scale(
    backbone: Backbone, role: str, numbers: Callable[[Scorer], Float[Tensor, "batch"]]
) -> None:
    backbone.set_scale(role, mean=0.0, std=1.0)
    scores = numbers(partial(scalar_at_end, backbone, role=role))
    mean, likelihood_mean = float(scores.mean()), 0.0
    likelihood = backbone.head(role).likelihood
    if likelihood is not None:
        feature = numbers(partial(reference_surprise, backbone))
        scores += likelihood.detach() * feature
        likelihood_mean = float(feature.mean())
    std = _spread(scores)
    backbone.set_scale(role, mean=mean, std=std, likelihood_mean=likelihood_mean)


def _spread(scores: Float[Tensor, "batch"]) -> float:
    std = float(scores.std())
    if not isfinite(std):
        raise UserError("reward: the scores of the trained model are not finite")
    if std == 0.0:
        raise UserError(
            f"reward: all {len(scores)} responses of the reference score the same "
            f"({float(scores[0]):.3g}), so scores cannot be scaled",
            hint="the model learnt nothing: look at reward/loss, and at the data",
        )
    return std
