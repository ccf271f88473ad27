"""``evaluate --reward``: the report card of a reward model, on any pairs."""

import json as json_library
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rlhf_forge.commands.evaluate import require_least
from rlhf_forge.errors import UserError

if TYPE_CHECKING:
    from rlhf_forge.data.tokenize import PairExample
    from rlhf_forge.evaluation.duel import Lineup


def evaluate_reward(  # noqa: PLR0913 - an argument is an option
    artefact: str,
    pairs: str,
    split: str = "validation",
    fraction: float | None = None,
    number: int = 1000,
    probed: int = 100,
    max_length: int | None = None,
    data_seed: int = 0,
    json: bool = False,
) -> int:
    """Report card of a reward model; the exit status is 1 if its verdict is bad.

    Args:
        artefact: Folder of a reward model's artefact, such as lightning_logs/RUN/reward/artefact.
        pairs: Source of pairs it was not trained on: a file, a data set or module:function.
        split: Of a data set or function.
        fraction: Take only the share of prompts that a training with this
            data.validation_fraction holds out, where the file is the one it was trained on.
        number: At most so many pairs.
        probed: At most so many of them are made probes of.
        max_length: Pairs with a side of more tokens are left out and counted; none: of more than
            the base's context.
        data_seed: Handed to a function of pairs.
        json: Print JSON instead of a table.
    """
    import torch

    from rlhf_forge.backbone.devices import default_device
    from rlhf_forge.evaluation.card_evidence import gather
    from rlhf_forge.evaluation.card_making import report_card
    from rlhf_forge.evaluation.duel import find_scorer

    require_least(number=(number, 1), probed=(probed, 1), data_seed=(data_seed, 0))
    lineup = find_scorer(Path(artefact))
    length = _longest(lineup, max_length)
    examples = _pairs(
        pairs, lineup, split=split, fraction=fraction, max_length=length, seed=data_seed
    )
    backbone = lineup.load(default_device())
    with torch.no_grad():
        evidence = gather(backbone, "reward", lineup.template, examples[:number], probed=probed)
    card = report_card(evidence)
    if json:
        sys.stdout.write(json_library.dumps(asdict(card), indent=1) + "\n")
    else:
        from rlhf_forge.commands.card_tables import print_card

        print_card(card)
    return int(card.verdict == "bad")


def _longest(lineup: "Lineup", given: int | None) -> int:
    from rlhf_forge.backbone.loading import context_of

    context = context_of(lineup.base.path)
    length = context if given is None else given
    if not 1 <= length <= context:
        raise UserError(
            f"--max_length: must be from 1 to {context}, the context of the base, got {length}"
        )
    return length


def _pairs(
    path: str,
    lineup: "Lineup",
    *,
    split: str,
    fraction: float | None,
    max_length: int,
    seed: int,
) -> list["PairExample"]:
    """The pairs; those that cannot be used are left out and counted on stderr."""
    from rlhf_forge.data.bad_records import skip
    from rlhf_forge.data.loading import load_examples
    from rlhf_forge.data.splits import split_held_out

    loaded = load_examples(
        path,
        lineup.template,
        split=split,
        columns={},
        kind="pairs",
        max_length=max_length,
        on_bad=skip,
        seed=seed,
    )
    sys.stderr.write(f"{path}: " + "\n  ".join(loaded.tally.lines()) + "\n")
    examples = loaded.examples
    if fraction is not None:
        _, examples = split_held_out(loaded, fraction)
        sys.stderr.write(f"  {len(examples)} of them held out\n")
    return cast("list[PairExample]", examples)
