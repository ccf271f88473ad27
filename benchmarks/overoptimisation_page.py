"""The tables of overoptimisation.py as Markdown."""

import platform
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from alarms import ALARMS, IN_TIME, LOST
from panel import EVERY, NUMBER

# The alarms, and one of them by another name: the judge that is not of the other kind in all runs.
FEATURE = "feature"
ROWS = ALARMS | {FEATURE: "judge with the likelihood feature, of the same kind where healthy"}
# A run over-optimises if gold ends so far below its peak.
FALL = 0.2
HEADER = (
    "alarm",
    "3,840 pairs",
    "32 pairs",
    "gold fell",
    "gold fell, going on",
    "gold lost",
    "silent where healthy",
)
TRIED = (
    "Tried before, on the seeds that thresholds are chosen on: half the rate of learning (in two "
    "runs gold had not turned); reward models of 512 pairs (seed 1: turned behind iteration 10) "
    "and of 128 (seed 1: behind 10; seed 4: not by 16). The runs of 3,840 pairs are those of an "
    "earlier study with a reading every 2nd iteration, all of which had been seen; there the judge "
    "of the other kind was in time in 2 and 3 of 5 and within 0.1 in 3 and 4. A reading every 4th "
    "was chosen on those of seeds 0 to 4: of readings so near to each other that noise is most of "
    "their difference, any may be the peak. No threshold of the watch was changed. Of the runs of "
    "32 pairs those of seeds 10 to 14 were seen when all of this was fixed, and not before."
)


def page(rows: Sequence[dict[str, Any]], chosen_on: Sequence[int], shown_on: Sequence[int]) -> str:
    """All that is known.

    Args:
        rows: The runs that there are.
        chosen_on: Seeds that the thresholds were chosen on.
        shown_on: The others.
    """
    lines = ["# Over-optimisation: which alarm tells", "", _how(), "", TRIED, ""]
    if not rows:
        return "\n".join([*lines, "No run is finished yet.", ""])
    for what, seeds in (("chosen on", chosen_on), ("shown on", shown_on)):
        those = [row for row in rows if row["seed"] in seeds]
        runs = {name: [row["seed"] for row in those if row["run"] == name] for name in HEADINGS}
        done = "; ".join(f"{HEADINGS[name]} {_numbers(runs[name])}" for name in HEADINGS)
        lines += [f"Seeds that the thresholds were {what}, finished: {done}.", ""]
        if those:
            lines += [*table_of(those), *told_of_falls(those)]
    lines += ["Each run, one reading after the other:", ""]
    for row in rows:
        made = f"at {row['commit']}, {row['date']}"
        lines += [f"Seed {row['seed']}, {HEADINGS[row['run']]} ({made}):", "", *curve_of(row), ""]
    return "\n".join(lines)


HEADINGS = {"over": "3,840 pairs", "few": "32 pairs", "healthy": "healthy"}


def _how() -> str:
    return (
        f"`python benchmarks/overoptimisation.py` on {platform.machine()}, one thread. PPO on the "
        "toy world with nothing asked for KL, against a plain reward model that was trained on "
        "3,840 pairs, each once, or on 32 pairs, each 120 times; and, where all should be quiet, "
        f"the quickstart's own run. Watched every {EVERY} iterations on {NUMBER} held-out prompts; "
        "the file's first lines say how. The judges were trained on pairs of other seeds, 7,040 "
        "with the feature and 3,840 without.\n\n"
        f"*5, 4 of 5*: in 5 runs the alarm first speaks behind gold's peak, at most {IN_TIME} "
        f"readings behind it, and in 4 the state that is kept has a gold at most {LOST:g} below "
        "the best of the whole run. The alarm of a judge is the watch's own, with `watch.action: "
        "stop`: of the readings until it speaks the best by the judge is kept. An alarm without a "
        "score of its own keeps the best by the reward before it speaks. *Gold fell*: the runs "
        f"that do over-optimise, in which gold ends {FALL:g} or more below its peak. *Going on*: "
        "the same runs with `watch.action: none`, where the alarm speaks again when it has "
        "something new to tell, and the best of all readings is kept. *Gold lost*: how much worse "
        "the kept state is than the best, mean over all runs but the healthy ones, stopped. "
        "*Silent*: it says nothing in a healthy run."
    )


def table_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each alarm: of how many runs it was right."""
    over, few = (_alarms(rows, run) for run in ("over", "few"))
    fell = [row["alarms"] for row in rows if has_fallen(row)]
    healthy = _alarms(rows, "healthy")
    lines = [_line(HEADER), _line(["---"] * len(HEADER))]
    for alarm, name in ROWS.items():
        lost = [found[alarm]["lost"] for found in (*over, *few)]
        silent = sum(found[alarm]["spoke"] is None for found in healthy)
        cells = [name, *(_right(found, alarm) for found in (over, few, fell))]
        cells += [_right(fell, alarm, "_on"), f"{fmean(lost):.2f}" if lost else ""]
        lines.append(_line([*cells, f"{silent} of {len(healthy)}"]))
    return [*lines, ""]


def has_fallen(row: dict[str, Any]) -> bool:
    """Whether a run that is not a healthy one over-optimises."""
    gold = row["judge_gold"]
    return row["run"] != "healthy" and bool(max(gold) - gold[-1] >= FALL)


def told_of_falls(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The runs that over-optimise."""
    fell = [f"{row['seed']} ({HEADINGS[row['run']]})" for row in rows if has_fallen(row)]
    return [f"Gold fell in the runs of seeds {', '.join(fell) or 'none'}.", ""]


def curve_of(row: dict[str, Any]) -> list[str]:
    """All readings of a run, and where each alarm first spoke."""
    columns = ["iteration", "kl", "reward", "judge_same", "judge_other", "judge_gold", "accuracy"]
    columns += ["spread_same", "spread_other"]
    names = [name.replace("judge_", "").replace("_", " ") for name in columns]
    lines = [_line([*names, "speaks"]), _line(["---"] * (len(names) + 1))]
    for at, iteration in enumerate(row["iteration"]):
        cells = [str(iteration), *(f"{row[name][at]:.2f}" for name in columns[1:])]
        first = [alarm for alarm in ALARMS if row["alarms"][alarm]["spoke"] == at]
        lines.append(_line([*cells, ", ".join(first)]))
    return lines


def _alarms(rows: Sequence[dict[str, Any]], run: str) -> list[dict[str, Any]]:
    return [row["alarms"] for row in rows if row["run"] == run]


def _right(runs: Sequence[dict[str, Any]], alarm: str, how: str = "") -> str:
    """In how many runs it was in time, and in how many what is kept is near the best."""
    in_time = sum(found[alarm][f"in_time{how}"] for found in runs)
    within = sum(found[alarm][f"lost{how}"] <= LOST for found in runs)
    return f"{in_time}, {within} of {len(runs)}"


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
