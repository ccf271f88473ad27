"""Which labels are likely the wrong way round: a cheap model that never saw the pair.

A logistic regression on what the two answers do not share (words, pairs of words, sentences) and on
some numbers of each: length, repetition, what it takes up of the prompt, and how common its phrases
are among all answers, whatever their labels. It is fitted on four fifths of the prompts and asked
about the last fifth.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from rlhf_forge.inspection.words import Hashes, ids_of, runs, split

FOLDS = 5
DIMENSIONS = 1 << 18
DENSE = 16
"""First dimensions, for the numbers; words are hashed to the others."""
RIDGE = 30.0
STEPS = 40
MOST_CHARACTERS = 2000
"""Of an answer that are read."""
FLIPPED_BELOW = 0.1
"""Probability of the label below which it is likely flipped."""
PHRASES = (3, 5)
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
PAIR_SALT, SENTENCE_SALT = np.uint64(0x5851F42D4C957F2D), np.uint64(0x14057B7EF767814F)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A labelled pair as text."""

    row: int
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Side:
    """What is made of one answer.

    Attributes:
        keys: Its words, pairs of words and sentences, sorted, each once.
        phrases: For each length, and for sentences, its phrases, each once.
        numbers: Length, repetition, overlap with the prompt.
    """

    keys: Hashes
    phrases: tuple[Hashes, ...]
    numbers: tuple[float, ...]


def margins(cases: Sequence[Case]) -> Floats:
    """Log-odds of each label, by models that did not see its prompt; 0 where nothing tells.

    Args:
        cases: At most some ten thousand; their order does not matter.
    """
    sides = [(_side(c.chosen, c.prompt), _side(c.rejected, c.prompt)) for c in cases]
    common = _Commonness([side for both in sides for side in both])
    rows = [_features(chosen, rejected, common) for chosen, rejected in sides]
    folds = np.array([int(ids_of([c.prompt.encode("utf-8", "replace")])[0] % FOLDS) for c in cases])
    found = np.zeros(len(cases))
    for fold in range(FOLDS):
        kept, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(kept) and len(asked):
            weights = _fitted([rows[i] for i in kept])
            found[asked] = _products([rows[i] for i in asked], weights).numpy()
    return found


def probabilities(log_odds: Floats) -> Floats:
    """Of each label."""
    return 1 / (1 + np.exp(-np.clip(log_odds, -50, 50)))


def noise_rate(label_probabilities: Floats) -> float | None:
    """Estimated share of labels that are the wrong way round, by confident learning.

    Counts the pairs whose other order is at least as probable as labels are on average, among all
    pairs that are as sure of either order. None if no pair is.

    Source: Northcutt et al. 2021, https://arxiv.org/abs/1911.00068, eq. 1, for two exchangeable
    classes.
    """
    if not len(label_probabilities):
        return None
    sure = float(label_probabilities.mean())
    for_label = int(np.count_nonzero(label_probabilities >= sure))
    against = int(np.count_nonzero(1 - label_probabilities >= sure))
    return against / (for_label + against) if for_label + against else None


class _Commonness:
    """How many answers of all have a phrase."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._tables = [
            np.unique(np.concatenate([s.phrases[kind] for s in sides]), return_counts=True)
            for kind in range(len(PHRASES) + 1)
        ]

    def of(self, side: Side, other: Side) -> list[float]:
        """Mean and least logarithm of the count of its phrases, outside this pair."""
        found = []
        for phrases, others, (keys, counts) in zip(
            side.phrases, other.phrases, self._tables, strict=True
        ):
            if not len(phrases):
                found += [0.0, 0.0]
                continue
            elsewhere = counts[np.searchsorted(keys, phrases)] - 1 - np.isin(phrases, others)
            logs = np.log1p(elsewhere)
            found += [float(logs.mean()), float(logs.min())]
        return found


def _side(answer: str, prompt: str) -> Side:
    text = answer[:MOST_CHARACTERS]
    ids = ids_of(split(_apart(text)))
    sentences = ids_of([b" ".join(split(s)) for s in SENTENCE.findall(text) if s.strip()])
    words, asked = np.unique(ids), np.unique(ids_of(split(_apart(prompt[-MOST_CHARACTERS:]))))
    shared = len(np.intersect1d(words, asked, assume_unique=True))
    keys = np.concatenate([words, runs(ids, 2) ^ PAIR_SALT, sentences ^ SENTENCE_SALT])
    phrases = [np.unique(runs(ids, min(length, max(len(ids), 1)))) for length in PHRASES]
    return Side(
        np.unique(keys),
        (*phrases, np.unique(sentences)),
        (
            float(np.log1p(len(ids))),
            float(np.log1p(len(sentences))),
            (len(ids) - len(words)) / max(len(ids), 1),
            float(len(sentences) - len(np.unique(sentences))),
            2 * shared / max(len(words), 1),
            2 * shared / max(len(asked), 1),
        ),
    )


def _apart(text: str) -> str:
    """Words and marks as words of their own."""
    return " ".join(re.findall(r"\w+|[^\w\s]", text))


def _features(chosen: Side, rejected: Side, common: _Commonness) -> tuple[Hashes, Floats]:
    """Dimensions and values of what the chosen answer has more than the rejected one."""
    only_chosen = np.setdiff1d(chosen.keys, rejected.keys, assume_unique=True)
    only_rejected = np.setdiff1d(rejected.keys, chosen.keys, assume_unique=True)
    hashed = np.concatenate([only_chosen, only_rejected]) % np.uint64(DIMENSIONS - DENSE)
    ours = [*chosen.numbers, *common.of(chosen, rejected)]
    theirs = [*rejected.numbers, *common.of(rejected, chosen)]
    numbers = np.array(ours) - np.array(theirs)
    signs = [np.ones(len(only_chosen)), -np.ones(len(only_rejected))]
    places = np.concatenate([np.arange(len(numbers), dtype=np.uint64), hashed + np.uint64(DENSE)])
    return places, np.concatenate([numbers, *signs])


def _fitted(rows: Sequence[tuple[Hashes, Floats]]) -> torch.Tensor:
    """Weights that make the labels likely, held small by ``RIDGE``."""
    weights = torch.zeros(DIMENSIONS, 1, requires_grad=True)
    packed = _packed(rows)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        places, values, starts = packed
        lead = F.embedding_bag(places, weights, starts, per_sample_weights=values, mode="sum")
        loss = F.softplus(-lead).sum() + RIDGE / 2 * weights.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def _products(rows: Sequence[tuple[Hashes, Floats]], weights: torch.Tensor) -> torch.Tensor:
    places, values, starts = _packed(rows)
    lead = F.embedding_bag(places, weights, starts, per_sample_weights=values, mode="sum")
    return lead.squeeze(1)


def _packed(
    rows: Sequence[tuple[Hashes, Floats]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All places, all values, and where each row begins."""
    places = np.concatenate([places for places, _ in rows]).astype(np.int64)
    values = np.concatenate([values for _, values in rows]).astype(np.float32)
    starts = np.cumsum([0, *chain(len(p) for p, _ in rows[:-1])])
    return torch.from_numpy(places), torch.from_numpy(values), torch.from_numpy(starts)
