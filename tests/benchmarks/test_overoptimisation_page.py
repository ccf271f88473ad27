"""benchmarks/overoptimisation_page.py: how the runs of an alarm are counted."""

from importlib import import_module
from typing import Any

EARLY = {"spoke": 1, "in_time": False, "lost": 0.4, "in_time_on": True, "lost_on": 0.0}
RIGHT = {"spoke": 3, "in_time": True, "lost": 0.05, "in_time_on": True, "lost_on": 0.05}
SILENT = {"spoke": None, "in_time": False, "lost": 0.0, "in_time_on": False, "lost_on": 0.0}


def row(run: str, verdict: dict[str, Any], gold: list[float]) -> dict[str, Any]:
    page = import_module("overoptimisation_page")
    return {"run": run, "judge_gold": gold, "alarms": dict.fromkeys(page.ROWS, verdict)}


def test_a_run_counts_where_it_belongs_and_as_fallen_only_if_gold_ends_below_its_peak() -> None:
    page = import_module("overoptimisation_page")
    rows = [
        row("over", RIGHT, [1.0, 2.0, 1.9]),
        row("few", EARLY, [1.0, 2.0, 0.5]),
        row("few", RIGHT, [1.0, 2.0, 1.7]),
        row("healthy", SILENT, [1.0, 2.0, 1.0]),
        row("healthy", RIGHT, [1.0, 2.0, 2.0]),
    ]
    header, _, first, *_ = page.table_of(rows)
    assert header.startswith("| alarm | 3,840 pairs | 32 pairs | gold fell | gold fell, going on ")
    counts = ["1, 1 of 1", "1, 1 of 2", "1, 1 of 2", "2, 2 of 2", "0.17", "1 of 2"]
    assert first == f"| judge of the same kind | {' | '.join(counts)} |"
