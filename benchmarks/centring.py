"""Where a reward model puts 0: the mean score of demonstrations that nobody has seen.

    python benchmarks/centring.py ARTEFACT...

Each artefact is of the quickstart's reward stage. Scores demonstrations drawn from seeds that no
stage uses, and responses of the SFT model to the same prompts. Writes
benchmarks/results/centring.json.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from quickstart import RESULTS, commit

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.records import Demonstration, assistant, user
from rlhf_forge.data.tokenize import example_of
from rlhf_forge.evaluation.duel import find_scorer
from rlhf_forge.generation.decode import Request, Response, generate
from rlhf_forge.generation.rows import join, per_row
from rlhf_forge.generation.sampler import Sampling
from rlhf_forge.toy_world.records import demonstrations

FRESH = 9000
MAX_TOKENS, MAX_ROWS, LONGEST = 8192, 128, 512


def fresh(number: int) -> list[Demonstration]:
    """Demonstrations of seeds from `FRESH` on."""
    rows: list[dict[str, Any]] = []
    seed = FRESH
    while len(rows) < number:
        rows += demonstrations(seed=seed, split="validation")
        seed += 1
    return [
        Demonstration(user(row["prompt"]), assistant(row["completion"]), f"fresh:{at}", row)
        for at, row in enumerate(rows[:number])
    ]


def scores(backbone: Backbone, prompts: list[list[int]], responses: list[Response]) -> list[float]:
    """Of each response."""
    tokens, mask = join(prompts, responses, backbone.device)
    scorer = partial(score, backbone, role="reward")
    found: list[float] = per_row(scorer, tokens, mask, max_tokens=MAX_TOKENS).tolist()
    return found


@torch.no_grad()
def measured(artefact: Path, records: Sequence[Demonstration]) -> dict[str, Any]:
    """Mean and standard deviation of both."""
    lineup = find_scorer(artefact)
    backbone, template = lineup.load(torch.device("cpu")), lineup.template
    prompts = [template.prompt(record.prompt) for record in records]
    wholes = [
        example_of(record, template, kind="demonstrations", max_length=LONGEST)
        for record in records
    ]
    shown = [
        Response(whole.tokens[len(prompt) :], finished=True)  # type: ignore[union-attr]
        for prompt, whole in zip(prompts, wholes, strict=True)
    ]
    requests = [Request(prompt, "reference", (1, at)) for at, prompt in enumerate(prompts)]
    drawn = generate(
        backbone, requests, Sampling(max_new_tokens=40), template.eos_ids, max_rows=MAX_ROWS
    )
    row: dict[str, Any] = {"artefact": artefact.as_posix(), "number": len(records)}
    for name, responses in (("demonstrations", shown), ("responses", drawn)):
        found = scores(backbone, prompts, responses)
        row |= {name: round(fmean(found), 3), f"{name}_std": round(stdev(found), 3)}
    return row


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artefacts", type=Path, nargs="+")
    parser.add_argument("--number", type=int, default=1500)
    arguments = parser.parse_args()
    records = fresh(arguments.number)
    rows = []
    for artefact in arguments.artefacts:
        rows.append(measured(artefact, records))
        print(rows[-1], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    report = {"commit": commit(), "rows": rows}
    (RESULTS / "centring.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
