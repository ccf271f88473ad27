"""Results as tables to read."""

from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(summary: dict[str, Any]) -> None:
    """Print before, after, and the reward model's accuracy, to stdout."""
    console = Console()
    console.print(_models(summary["models"]))
    [(first, _, before)] = [k.rpartition("_vs_") for k in summary["win_rate"] if "_vs_" in k]
    own = {key: summary[key] for key in ("gain", "win_rate")}
    own["seconds"] = summary["seconds"][first]
    if summary["policies"]:
        console.print(_gains({first: own, **summary["policies"]}, before))
    else:
        console.print(_gain(first, own, before))
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


def _gain(name: str, row: dict[str, Any], before: str) -> str:
    gain, win = row["gain"], row["win_rate"]
    return (
        f"{_title(name)} over {_title(before)}: gain {gain['gold']:+.2f} (se {gain['se']:.2f}, "
        f"paired by prompt), wins {win[f'{name}_vs_{before}']:.0%} "
        f"({win['low']:.0%} to {win['high']:.0%})"
    )


def _gains(rows: dict[str, Any], before: str) -> Table:
    """Several policies over the one model that all started at, paired by prompt."""
    table = Table(f"over {_title(before)}", "gain", "se", "wins", "95 %", "seconds")
    for name, row in rows.items():
        gain, win = row["gain"], row["win_rate"]
        table.add_row(
            name,
            f"{gain['gold']:+.2f}",
            f"{gain['se']:.2f}",
            f"{win[f'{name}_vs_{before}']:.0%}",
            f"{win['low']:.0%}-{win['high']:.0%}",
            f"{row['seconds']:.0f}",
        )
    return table


def _title(name: str) -> str:
    return {"sft": "SFT", "ppo": "PPO", "dpo": "DPO", "base": "the base"}.get(name, name)


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
