"""Evidence for a report card from a plain function that scores texts, on pairs of the toy world."""

import random
from collections.abc import Callable

from rlhf_forge.data.records import Pair, assistant, user
from rlhf_forge.evaluation.card_evidence import Evidence
from rlhf_forge.evaluation.probes import PROBES, Asked
from rlhf_forge.evaluation.reward_accuracy import PairScores
from rlhf_forge.toy_world import gold, records

Scorer = Callable[[str, Pair], float]


def true_pairs(number: int = 300) -> list[Pair]:
    """Pairs labelled by gold without a mistake, no ties."""
    found = []
    for place, row in enumerate(records.pairs(seed=0, split="validation")):
        worth = {side: gold.worth(row[side], row["answer"]) for side in ("chosen", "rejected")}
        if worth["chosen"] == worth["rejected"]:
            continue
        better, other = sorted(worth, key=lambda side: -worth[side])
        found.append(
            Pair(
                user(row["prompt"]), assistant(row[better]), assistant(row[other]), f"{place}", row
            )
        )
    return found[:number]


def words(text: str) -> int:
    return len(text.split())


def evidence_of(scorer: Scorer, pairs: list[Pair]) -> Evidence:
    """What the card would be computed from if ``scorer`` were the reward model."""
    first = [scorer(pair.chosen[0]["content"], pair) for pair in pairs]
    second = [scorer(pair.rejected[0]["content"], pair) for pair in pairs]
    asked = [
        Asked(p.prompt[0]["content"], p.chosen[0]["content"], following.chosen[0]["content"])
        for p, following in zip(pairs, pairs[1:] + pairs[:1], strict=True)
    ]
    gains = {
        name: [
            scorer(make(one), pair) - own
            for one, pair, own in zip(asked, pairs, first, strict=True)
        ]
        for name, make in PROBES.items()
    }
    return Evidence(
        PairScores(first, second, [1.0] * len(pairs), [None] * len(pairs)),
        [(words(p.chosen[0]["content"]), words(p.rejected[0]["content"])) for p in pairs],
        [p.fields["kind"] for p in pairs],
        pairs,
        gains,
    )


def gold_scorer(text: str, pair: Pair) -> float:
    return gold.worth(text, pair.fields["answer"])


def longest_first(text: str, pair: Pair) -> float:
    return float(words(text))


def coin(text: str, pair: Pair) -> float:
    return random.Random(text + pair.origin).random()
