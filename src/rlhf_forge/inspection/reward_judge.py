"""A reward model of ours as the judge of labels."""

from collections.abc import Sequence
from pathlib import Path

from rlhf_forge.artefact import read_manifest
from rlhf_forge.backbone.devices import default_device
from rlhf_forge.backbone.loading import context_of
from rlhf_forge.data.records import BadRecord, Pair
from rlhf_forge.data.tokenize import PairExample, example_of
from rlhf_forge.evaluation.duel import find_scorer
from rlhf_forge.evaluation.reward_accuracy import score_pairs
from rlhf_forge.inspection.inspect import Judge


def reward_judge(folder: Path) -> Judge:
    """Log-odds of labels by the reward model in an artefact folder; nothing is loaded yet.

    What its base has no room for, or its template refuses, is given 0: it does not know.

    Raises:
        UserError: If there is no such artefact, or its base here is another one.
    """
    lineup = find_scorer(folder)
    scale = read_manifest(folder).reward_std
    context = context_of(lineup.base.path)

    def judge(pairs: Sequence[Pair]) -> list[float]:
        leads = [0.0] * len(pairs)
        examples: dict[int, PairExample] = {}
        for number, pair in enumerate(pairs):
            try:
                example = example_of(pair, lineup.template, kind="pairs", max_length=context)
            except BadRecord:
                continue
            assert isinstance(example, PairExample)
            examples[number] = example
        scores = score_pairs(lineup.load(default_device()), "reward", list(examples.values()))
        for number, ours, theirs in zip(examples, scores.first, scores.second, strict=True):
            # Scores are in units of their spread, the odds of Bradley and Terry in raw ones.
            leads[number] = scale * (ours - theirs)
        return leads

    return judge
