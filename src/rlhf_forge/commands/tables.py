"""Results as tables to read."""

from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(summary: dict[str, Any]) -> None:
    """Print before, after, and the reward model's accuracy, to stdout."""
    console = Console()
    console.print(_models(summary["models"]))
    gain, win = summary["gain"], summary["win_rate"]
    before, name = ("sft", "SFT") if "sft" in summary["models"] else ("base", "the base")
    console.print(
        f"PPO over {name}: gain {gain['gold']:+.2f} (se {gain['se']:.2f}, paired by prompt), "
        f"wins {win[f'ppo_vs_{before}']:.0%} ({win['low']:.0%} to {win['high']:.0%})"
    )
    if summary["reward"]:
        console.print(_reward(summary["reward"]))


def print_duel(result: dict[str, Any]) -> None:
    """Print both policies and the win rate, to stdout."""
    console = Console()
    console.print(_models(result["models"]))
    win = result["win_rate"]
    console.print(
        f"policy wins {win['value']:.1%} "
        f"(95 %: {win['low']:.1%} to {win['high']:.1%}, n {win['n']})"
    )


def _models(models: dict[str, Any]) -> Table:
    table = Table("", "score", "se", "accuracy", "greedy", "KL", "length", "EOS", "n")
    for name, row in models.items():
        table.add_row(
            name,
            f"{row['gold']:.2f}",
            f"{row['gold_se']:.2f}",
            _share(row["accuracy"]),
            _share(row.get("accuracy_greedy")),
            "-" if row["kl"] is None else f"{row['kl']:.1f}",
            f"{row['length']:.1f}",
            _share(row["eos"]),
            str(row["n"]),
        )
    return table


def _reward(rows: dict[str, Any]) -> Table:
    table = Table("reward model on", "accuracy", "95 %", "ceiling", "n")
    for name, row in rows.items():
        interval = f"{row['low']:.3f}-{row['high']:.3f}"
        table.add_row(
            name, _share(row["accuracy"]), interval, _share(row["ceiling"]), str(row["n"])
        )
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
