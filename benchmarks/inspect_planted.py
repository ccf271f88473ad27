"""Does `inspect-data` find what is wrong? Faults are planted, and a slow exact oracle looks too.

    python benchmarks/inspect_planted.py [--hh hh-harmless-base-test.jsonl.gz]

The truth of each rule is what was planted and what the data has by nature, found by comparing
everything with everything in plain Python. Writes benchmarks/results/inspect-planted.json. The HH
file is not part of the project (docs/recipes.md says how to get it) and no text of it is written.
"""

import argparse
import json
import os
import platform
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from quickstart import RESULTS, commit

from rlhf_forge.data.records import Pair
from rlhf_forge.data.render import ChatTemplate, load_template
from rlhf_forge.inspection.as_trained import AsTrained
from rlhf_forge.inspection.findings import Inspection
from rlhf_forge.inspection.inspect import Settings, inspect
from rlhf_forge.inspection.reading import Source, Wording, read_pairs
from rlhf_forge.toy_world.records import pairs as toy_pairs

BASE = "package:toy_world/base"
SOURCES = ("alpha", "beta", "gamma", "delta")
ENDLESS = "delta"
SHARES = {
    "duplicate": 0.03,
    "near": 0.03,
    "contradiction": 0.02,
    "identical": 0.02,
    "truncated": 0.02,
    "leaked": 0.05,
    "flipped": 0.10,
    "begin": 0.01,
}
CODES = {
    "duplicate": "PREF301",
    "near": "PREF302",
    "contradiction": "PREF303",
    "identical": "PREF201",
    "truncated": "PREF202",
    "leaked": "PREF304",
    "begin": "PREF502",
    "endless": "PREF503",
}
NEAR = 0.8

Row = dict[str, Any]


class Planter:
    """Puts faults into copies of rows; each row gets one at most, and flips stand apart."""

    def __init__(self, rows: list[Row], held_out: list[Row], *, seed: int, long: int) -> None:
        self.rng = random.Random(f"planted/{seed}")
        self.rows, self.held_out, self.long = rows, held_out, long
        self.planted: dict[str, set[int]] = defaultdict(set)
        for row in (*rows, *held_out):
            row["source"] = self.rng.choice(SOURCES)
        free = list(range(len(rows)))
        self.rng.shuffle(free)
        self.touched: set[int] = set()
        for name, share in SHARES.items():
            chosen, free = free[: int(share * len(rows))], free[int(share * len(rows)) :]
            for number in chosen:
                getattr(self, f"_{name}")(number)
            self.touched |= set() if name == "flipped" else set(chosen)
        for row in (*self.rows, *self.held_out):
            self._end(row)
        endless = (n for n, row in enumerate(self.rows) if row["source"] == ENDLESS)
        self.planted["endless"].update(endless)

    def _append(self, name: str, row: Row) -> None:
        self.planted[name].add(len(self.rows))
        self.touched.add(len(self.rows))
        self.rows.append(row)

    def _duplicate(self, number: int) -> None:
        self._append("duplicate", dict(self.rows[number]))

    def _near(self, number: int) -> None:
        """A copy with one word more or less on one side, as far as that is near."""
        row = self.rows[number]
        for _ in range(20):
            copy = dict(row)
            side = self.rng.choice(["chosen", "rejected"])
            words = copy[side].split()
            if len(words) > 3:
                words[self.rng.randrange(len(words))] = self.rng.choice(["indeed", "so", "perhaps"])
                copy[side] = " ".join(words)
            if copy[side] != row[side] and jaccard(triples(copy), triples(row)) >= NEAR + 0.02:
                self._append("near", copy)
                return

    def _contradiction(self, number: int) -> None:
        row = self.rows[number]
        self.planted["contradiction"].add(number)
        self._append("contradiction", row | {"chosen": row["rejected"], "rejected": row["chosen"]})

    def _identical(self, number: int) -> None:
        self.rows[number]["rejected"] = self.rows[number]["chosen"]
        self.planted["identical"].add(number)

    def _truncated(self, number: int) -> None:
        row = self.rows[number]
        stem = " ".join([row["chosen"]] * (1 + self.long // max(len(row["chosen"]), 1)))
        row |= {"chosen": f"{stem} one", "rejected": f"{stem} two"}
        self.planted["truncated"].add(number)

    def _leaked(self, number: int) -> None:
        row, other = self.rows[number], self.rng.choice(self.held_out)
        self.held_out.append(other | {"prompt": row["prompt"]})
        self.planted["leaked"].add(number)

    def _flipped(self, number: int) -> None:
        row = self.rows[number]
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        if "gold" in row:
            row["gold"] = -row["gold"]
        self.planted["flipped"].add(number)

    def _begin(self, number: int) -> None:
        row = self.rows[number]
        last = row["prompt"][-1]
        row["prompt"] = [*row["prompt"][:-1], last | {"content": f"<s>{last['content']}"}]
        self.planted["begin"].add(number)

    def _end(self, row: Row) -> None:
        if row["source"] != ENDLESS:
            row["chosen"], row["rejected"] = (f"{row[k]}</s>" for k in ("chosen", "rejected"))


def prompt_key(row: Row) -> str:
    """The prompt as it is compared: lower-case words."""
    return " ".join(f"{t['role']} {t['content']}" for t in row["prompt"]).casefold()


def loose(text: str) -> str:
    """A text as it is compared: lower-case words."""
    return " ".join(text.casefold().split())


def key(row: Row) -> tuple[str, str, str]:
    """A row as it is compared."""
    return loose(prompt_key(row)), loose(row["chosen"]), loose(row["rejected"])


def triples(row: Row) -> set[tuple[str, ...]]:
    """Word triples of a row, told apart by the part they stand in."""
    found: set[tuple[str, ...]] = set()
    for part, text in zip("pcr", (prompt_key(row), row["chosen"], row["rejected"]), strict=True):
        words = text.casefold().split()
        if len(words) < 3:
            found.add((part, *words))
        found |= {(part, *words[i : i + 3]) for i in range(len(words) - 2)}
    return found


def jaccard(one: set[Any], other: set[Any]) -> float:
    """Share of what both have of what either has."""
    return len(one & other) / len(one | other)


def oracle(
    rows: list[Row], held_out: list[Row], template: ChatTemplate, length: int
) -> dict[str, set[int]]:
    """Every fault by exhaustive comparison: numbers of rows, the held-out ones negative."""
    everything = [*((-1 - n, row) for n, row in enumerate(held_out)), *enumerate(rows)]
    found: dict[str, set[int]] = defaultdict(set)
    first: dict[tuple[str, str, str], int] = {}
    prompts = {loose(prompt_key(row)) for row in held_out}
    for number, row in everything:
        if key(row) in first:
            found["duplicate"].add(number)
        first.setdefault(key(row), number)
        if number >= 0 and loose(prompt_key(row)) in prompts:
            found["leaked"].add(number)
        for name in alone(row, template, length):
            found[name].add(number)
    for number, row in everything:
        prompt, chosen, rejected = key(row)
        if chosen != rejected and (prompt, rejected, chosen) in first:
            found["contradiction"].add(number)
    found["near"] = near(everything) - found["duplicate"]
    return found


def alone(row: Row, template: ChatTemplate, length: int) -> Iterator[str]:
    """What a row has wrong by itself."""
    chosen, rejected = row["chosen"].strip(), row["rejected"].strip()
    if chosen and chosen == rejected:
        yield "identical"
    elif chosen and rejected and cut_alike(row, template, length):
        yield "truncated"
    texts = [*(t["content"] for t in row["prompt"]), chosen, rejected]
    if any(text.strip().startswith("<s>") for text in texts):
        yield "begin"
    if row["source"] == ENDLESS:
        yield "endless"


def cut_alike(row: Row, template: ChatTemplate, length: int) -> bool:
    """Whether both sides have the same tokens after the cut."""
    sides = ([{"role": "assistant", "content": row[k]}] for k in ("chosen", "rejected"))
    one, other = (template.answered(row["prompt"], side)[0][:length] for side in sides)
    return one == other


def near(everything: list[tuple[int, Row]]) -> set[int]:
    """Rows that are near an earlier one: each is compared with all that share a triple."""
    postings: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes = np.zeros(len(everything))
    found = set()
    for place, (number, row) in enumerate(everything):
        mine = triples(row)
        sizes[place] = len(mine)
        lists = [postings[t] for t in mine if t in postings]
        if lists:
            shared = np.bincount(np.concatenate(lists), minlength=place)
            if (shared / (sizes[:place] + len(mine) - shared)).max() >= NEAR:
                found.add(number)
        for triple in mine:
            postings[triple].append(place)
    return found


def auc(scores: np.ndarray[Any, Any], positive: np.ndarray[Any, Any]) -> float:
    """Probability that a positive case scores higher than a negative one, ties counting half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    n = int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def toy() -> tuple[list[Row], list[Row]]:
    """The quickstart's pairs with the margin of their true worths."""
    return tuple(  # type: ignore[return-value]
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "chosen": row["chosen"],
                "rejected": row["rejected"],
                "gold": row["gold_chosen"] - row["gold_rejected"],
            }
            for row in toy_pairs(seed=0, split=split)
        ]
        for split in ("train", "validation")
    )


def hh(path: str) -> tuple[list[Row], list[Row]]:
    """The pairs of the HH file; the last 300 are held out."""
    found = [r.pair for r in read_pairs(Source(path), Wording({})) if r.pair is not None]
    rows = [_row(pair) for pair in found]
    return rows[:-300], rows[-300:]


def _row(pair: Pair) -> Row:
    chosen, rejected = pair.chosen[-1]["content"], pair.rejected[-1]["content"]
    return {"prompt": pair.prompt, "chosen": chosen, "rejected": rejected}


def measure(rows: list[Row], held_out: list[Row], *, length: int) -> dict[str, Any]:
    """Plant, look by both ways, and compare."""
    sizes = {"rows": len(rows), "held_out": len(held_out), "max_length": length}
    planter = Planter(rows, held_out, seed=0, long=12 * length)
    template = load_template(BASE, "mistral")
    truth = oracle(rows, held_out, template, length)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "train.jsonl", Path(folder) / "held_out.jsonl"]
        for path, part in zip(files, (rows, held_out), strict=True):
            path.write_text("".join(json.dumps(row) + "\n" for row in part))
        sources = [Source(str(files[0])), Source(str(files[1]), held_out=True)]
        found = inspect(sources, Settings(as_trained=AsTrained(template, length)))
    return {
        **sizes,
        "with_faults": {"rows": len(rows), "held_out": len(held_out)},
        "rules": compared(found, truth, planter),
        "flips": flips_of(found, planter),
    }


def compared(
    found: Inspection, truth: dict[str, set[int]], planter: Planter
) -> dict[str, dict[str, float]]:
    """Precision and recall of each rule against what was planted and what was there by nature."""
    before = len(planter.held_out)  # they are read first
    result = {}
    for name, code in CODES.items():
        numbers = [n for f in found.findings if f.code == code for n in f.rows.tolist()]
        ours = {n - before if n >= before else -1 - n for n in numbers}
        planted = planter.planted[name]
        real = truth[name] | planted
        result[f"{code} {name}"] = {
            "planted": len(planted),
            "planted_found": len(ours & planted),
            "true": len(real),
            "flagged": len(ours),
            "precision": round(len(ours & real) / max(len(ours), 1), 4),
            "recall": round(len(ours & real) / max(len(real), 1), 4),
        }
    return result


def flips_of(found: Inspection, planter: Planter) -> dict[str, float]:
    """How well flipped labels are told from others, on rows without another fault."""
    assert found.labels is not None
    numbers = found.labels.rows - len(planter.held_out)
    plain = np.array([n not in planter.touched for n in numbers.tolist()])
    numbers, chances = numbers[plain], found.labels.probabilities[plain]
    flipped = np.array([n in planter.planted["flipped"] for n in numbers.tolist()])
    told = {"pairs": len(numbers), "flipped": int(flipped.sum()), "auc": auc(-chances, flipped)}
    if "gold" in planter.rows[0]:
        gold = np.array([planter.rows[n]["gold"] for n in numbers.tolist()])
        told["auc_gold"] = auc(-gold, flipped)
        told["ratio"] = told["auc"] / told["auc_gold"]
    return {name: round(value, 4) for name, value in told.items()}


def main() -> None:
    """Measure on the quickstart's pairs, and on the HH file if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hh", help="path of the HH file")
    options = parser.parse_args()
    made: dict[str, Any] = {
        "command": "python benchmarks/inspect_planted.py" + " --hh FILE" * bool(options.hh),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_before": round(os.getloadavg()[0], 1),
        "toy": measure(*toy(), length=128),
    }
    if options.hh:
        made["hh"] = measure(*hh(options.hh), length=512)
    (RESULTS / "inspect-planted.json").write_text(json.dumps(made, indent=1) + "\n")
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
