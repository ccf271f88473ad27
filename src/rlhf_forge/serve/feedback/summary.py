"""What the votes say so far, for the page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlhf_forge.evaluation.statistics import Share, share_of
from rlhf_forge.serve.feedback.agreement import between_people, self_consistency
from rlhf_forge.serve.feedback.ranking import Game, bradley_terry
from rlhf_forge.serve.feedback.store import Score
from rlhf_forge.serve.feedback.votes import CUT, Vote, first_looks, standing

RESULT = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
# What was preferred of answers cut short still says something of their models.
TRUSTED = {CUT}


def summary(votes: Sequence[Vote], scores: Sequence[Score]) -> dict[str, Any]:
    """All statistics of the page, ready for JSON.

    Undone votes count nowhere. Votes with a flag other than cut_by_vote, and skips, are counted
    and otherwise left out; a person's later votes on a pair count for self-consistency only.
    """
    kept = standing(votes)
    comparisons = [vote for vote in kept if vote.kind == "comparison"]
    trusted = [v for v in comparisons if v.choice != "skip" and TRUSTED.issuperset(v.flags)]
    first, repeated = first_looks(trusted)
    thumbs = [vote for vote in kept if vote.kind == "thumb"]
    found = _plain(
        {
            "votes": len(comparisons),
            "counted": len(first),
            "undone": sum(vote.kind == "undo" for vote in votes),
            "skipped": sum(vote.choice == "skip" for vote in comparisons),
            "flags": dict(Counter(flag for vote in comparisons for flag in vote.flags)),
            "choices": dict(Counter(vote.choice for vote in first)),
            "thumbs": dict(Counter(vote.choice for vote in thumbs)),
            "models": models_of(games_of(first)),
            "left_wins": left_wins(first),
            "longer_wins": longer_wins(first),
            "reward_agrees": reward_agreement(first, scores),
            "self_consistency": share_of(self_consistency(repeated)),
            "agreement": between_people(first),
        }
    )
    return dict(found)


def games_of(votes: Sequence[Vote]) -> list[Game]:
    """The votes between two different models; both bad is a draw."""
    sides = [(vote, *vote.sides) for vote in votes]
    return [(a.model, b.model, RESULT[str(v.choice)]) for v, a, b in sides if a.model != b.model]


def models_of(games: Sequence[Game]) -> list[dict[str, Any]]:
    """Each model with its share of wins and its log-strength, the strongest first."""
    results: dict[str, list[float]] = {}
    for first, second, result in games:
        results.setdefault(first, []).append(result)
        results.setdefault(second, []).append(1 - result)
    return [
        {"model": model, "wins": share_of(results[model]), "strength": strength}
        for model, strength in bradley_terry(games).items()
    ]


def left_wins(votes: Sequence[Vote]) -> Share:
    """How often the left answer was chosen, of the times that one was; fair is 0.5."""
    decided = [vote for vote in votes if vote.decided and vote.shown_left is not None]
    return share_of([float(vote.choice == vote.shown_left) for vote in decided])


def longer_wins(votes: Sequence[Vote]) -> Share:
    """How often the answer of more characters was chosen, where they differ in length."""
    more = [(v, len(v.sides[0].text) - len(v.sides[1].text)) for v in votes if v.decided]
    return share_of([float((vote.choice == "a") == (of_a > 0)) for vote, of_a in more if of_a])


def reward_agreement(votes: Sequence[Vote], scores: Sequence[Score]) -> dict[str, Share]:
    """For each reward model, how often the answer that it scores higher was chosen."""
    chosen: Mapping[str, Vote] = {vote.id: vote for vote in votes if vote.decided}
    agrees: dict[str, list[float]] = {}
    for score in scores:
        if score.vote in chosen and score.a != score.b:
            is_a = chosen[score.vote].choice == "a"
            agrees.setdefault(score.model, []).append(float(is_a == (score.a > score.b)))
    return {model: share_of(values) for model, values in sorted(agrees.items())}


def _plain(value: Any) -> Any:
    if isinstance(value, Share):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
