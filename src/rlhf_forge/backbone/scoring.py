"""Scalars of whole responses and of single tokens.

``mask`` is True on response tokens of right-padded rows of prompt and response.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count, takewhile

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from rlhf_forge.backbone.adapter_files import AdapterWeights
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.functional.ensembles import ensemble_score

# A token that the reference gives at least e to the minus this is no surprise.
PLAUSIBLE = 2.0
# Nats of a response beyond this tell no more: what the reference cannot read at all is no worse
# than what it finds wrong, and no single pair rules the fit.
MOST_SURPRISING = 10.0


def score(
    backbone: Backbone,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    role: str = "reward",
    ref_log_probs: Float[Tensor, "batch time"] | None = None,
    together: Callable[[Tensor], Tensor] = ensemble_score,
) -> Float[Tensor, "batch"]:
    """Normalised score of each row, read at its last response token.

    The one way from tokens to a score: PPO, evaluation and the server call it. Of an ensemble it is
    that of all members together. A row without
    a response token is read at its first token, which says nothing about any answer. If the role's
    head has the reference-likelihood feature on, the role ``reference`` must be there.

    Args:
        backbone: With the role.
        tokens: Right-padded prompt and response.
        mask: True on response tokens.
        role: Whose head scores.
        ref_log_probs: log π_ref of the response tokens at temperature 1, if they are at hand; the
            feature is computed from them then.
        together: Makes one score of those of the members.
    """
    members = member_scores(backbone, tokens, mask, role=role, ref_log_probs=ref_log_probs)
    return together(members)


def member_scores(
    backbone: Backbone,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    role: str = "reward",
    ref_log_probs: Float[Tensor, "batch time"] | None = None,
) -> Float[Tensor, "members batch"]:
    """The score of each member of an ensemble, of a single reward model its own; see `score`."""
    members = members_of(backbone, role)
    if ref_log_probs is None and len(members) > 1 and backbone.head(role).likelihood is not None:
        ref_log_probs = _reference_log_probs(backbone, tokens, mask)  # once for all of them
    return torch.stack(
        [
            member_score(backbone, tokens, mask, role=member, ref_log_probs=ref_log_probs)
            for member in members
        ]
    )


def members_of(backbone: Backbone, role: str) -> list[str]:
    """The roles of an ensemble, of which ``role`` is the first; the role alone if it is none."""
    names = (f"{role}~{number}" for number in count(1))
    return [role, *takewhile(backbone.roles.__contains__, names)]


def ensemble_of(backbone: Backbone, role: str) -> AdapterWeights:
    """A copy of the role's weights with those of the other members of its ensemble."""
    first, *others = (backbone.weights_of(member) for member in members_of(backbone, role))
    return replace(first, members=tuple(others))


def member_score(
    backbone: Backbone,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    role: str,
    ref_log_probs: Float[Tensor, "batch time"] | None = None,
) -> Float[Tensor, "batch"]:
    """As `score`, of one role by itself: reward training calls it."""
    scores = scalar_at_end(backbone, tokens, mask, role=role)
    head = backbone.head(role)
    if head.likelihood is None:
        return scores
    if ref_log_probs is None:
        feature = reference_surprise(backbone, tokens, mask)
    else:
        feature = surprise(ref_log_probs, mask)
    return scores + head.likelihood * (feature - head.likelihood_mean) / head.std


def scalar_at_end(
    backbone: Backbone,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
    *,
    role: str,
) -> Float[Tensor, "batch"]:
    """The head's output after the last response token of each row: a score without the feature."""
    index = torch.arange(tokens.shape[1], device=tokens.device)
    last = torch.where(mask, index, 0).amax(-1, keepdim=True)
    with backbone.using(role):
        return backbone.scalars(tokens, index == last).gather(1, last).squeeze(1)


@torch.no_grad()
def reference_surprise(
    backbone: Backbone,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch"]:
    """`surprise` of the role ``reference`` at each row's response; no gradient."""
    return surprise(_reference_log_probs(backbone, tokens, mask), mask)


@torch.no_grad()
def _reference_log_probs(
    backbone: Backbone,
    tokens: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"],
) -> Float[Tensor, "batch time"]:
    with backbone.using("reference"):
        log_probs, _ = backbone.log_probs(tokens, mask, temperature=1.0)
    return log_probs


def surprise(
    ref_log_probs: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch"]:
    """The reference-likelihood feature: how implausible the reference finds a response, in nats.

    ``max(−10, Σ_t min(0, log π_ref(y_t) + 2))`` over the response: tokens that the reference gives
    less than e⁻² add up, to 10 nats at most; 0 for a plausible response, down to −10. It lets a
    small reward model use what the reference knows, such as facts, without learning it from pairs.
    It is no measure of quality: a plausible lie passes, and a true rarity does not.
    """
    nats = torch.where(mask, (ref_log_probs + PLAUSIBLE).clamp_max(0.0), 0.0).sum(-1)
    return nats.clamp_min(-MOST_SURPRISING)


def values_before(
    scalars: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch time"]:
    """The critic's output before each response token: what it made of the token to the left."""
    return torch.where(mask, F.pad(scalars[:, :-1], (1, 0)), 0.0)


def row_ends(mask: Bool[Tensor, "batch time"]) -> list[int]:
    """For each row, one past its last True; at least 1."""
    index = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    ends: list[int] = torch.where(mask, index, 1).amax(-1).tolist()
    return ends


def row_width(mask: Bool[Tensor, "batch time"]) -> int:
    """One past the last True of any row; at least 1."""
    return max(row_ends(mask), default=1)
