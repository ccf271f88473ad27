"""On the page: how the stages were made, their curves, what they took."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from markupsafe import Markup

from rlhf_forge.pages.charts import Bar, bar_chart, line_chart
from rlhf_forge.pages.escaping import element, number
from rlhf_forge.pages.page import facts, prose, quoted, table, unfolding
from rlhf_forge.reporting.report import Report
from rlhf_forge.reporting.stage import Stage

MOST_STAGES = 8
"""With curves on the page: it must stay small."""
CONFIG_CHARACTERS = 6000
SHORT = 12
"""Characters of a fingerprint, as messages have them."""
# Curves that are open; the others are there to be unfolded.
FIRST = (
    "objective/score",
    "objective/kl",
    "judge/score",
    "judge/accuracy",
    "rollout/length",
    "rollout/eos_fraction",
    "policy/entropy",
    "sft/loss",
    "reward/loss",
    "reward/accuracy",
    "dpo/loss",
    "dpo/accuracy",
    "dpo/margin",
    "dpo/chosen_log_ratio",
)
PHASES = ("time/generate", "time/score", "time/update")


def done(report: Report) -> Iterator[Markup]:
    """A row for each stage, and all that it was made with beneath."""
    columns = ["stage", "kind", "steps", "data", "trained on", "held out", "artefact", "parents"]
    yield table(columns, [_row(stage) for stage in report.stages])
    for stage in report.stages:
        parts = [facts(_made(stage))]
        if stage.config:
            text = yaml.safe_dump(stage.config, sort_keys=False, allow_unicode=True)
            parts.append(quoted(text, label="config.yaml", most=CONFIG_CHARACTERS))
        yield unfolding(f"{stage.name}: versions, fingerprints, config", parts)


def curves(stages: Sequence[Stage]) -> Iterator[Markup]:
    """Charts of each stage."""
    for stage in stages[:MOST_STAGES]:
        yield from _curves(stage)
    if left := [stage.name for stage in stages[MOST_STAGES:]]:
        yield prose(f"The curves of {', '.join(left)} are only in the report's JSON.")


def resources(report: Report) -> Iterator[Markup]:
    """Seconds and memory."""
    seconds = {stage.name: stage.seconds for stage in report.stages}
    summary = report.summary or {}
    taken = {name: s for name, s in seconds.items() if s is not None}
    taken |= {name: s for name, s in summary.get("seconds", {}).items() if name not in seconds}
    if taken:
        bars = [Bar(name, value) for name, value in taken.items()]
        yield bar_chart("Seconds of the pipeline", bars, x_label="seconds")
    phases = [phase for phase in PHASES if any(phase in s.curves for s in report.stages)]
    columns = ["stage", "seconds", "first to last event", *phases]
    rows = [
        [
            stage.name,
            stage.seconds,
            None if stage.logged is None else stage.logged.seconds,
            *(stage.curves[phase].total if phase in stage.curves else None for phase in phases),
        ]
        for stage in report.stages
    ]
    yield table(columns, rows, caption="seconds; those of the phases added up over all iterations")
    memory = [row for stage in report.stages if (row := _memory(stage)) is not None]
    if memory:
        columns = ["stage", "low", "expected", "high", "measured"]
        yield table(columns, memory, caption="peak memory in MiB, as planned and as measured")
    if "peak_rss_mib" in summary:
        yield facts({"peak memory of the process, MiB": summary["peak_rss_mib"]})
    else:
        yield prose("Peak memory is not known: the pipeline writes it into summary.json.")


def _memory(stage: Stage) -> list[Any] | None:
    """Of one stage; None if its run kept nothing of it."""
    kept = (stage.provenance or {}).get("memory")
    if kept is None:
        return None
    sizes = [*(kept["predicted"][name] for name in ("low", "expected", "high")), kept["measured"]]
    return [stage.name, *(None if size is None else round(size / 2**20) for size in sizes)]


def _row(stage: Stage) -> list[Any]:
    made, data = stage.artefact or {}, (stage.provenance or {}).get("data", {})
    parents = ", ".join(f"{role} {print_[:SHORT]}" for role, print_ in _parents(made))
    steps = f"{made['steps']:,} of {made['planned_steps']:,}" if made else "not finished"
    kept = f", best by {made['kept_by']}" if made.get("kept_by") else ""
    path = data.get("path") or stage.config.get("data", {}).get("path")
    return [
        stage.name,
        stage.kind,
        steps + kept,
        path,
        data.get("train"),
        data.get("held_out"),
        made.get("fingerprint", "")[:SHORT] or None,
        parents or None,
    ]


def _parents(made: dict[str, Any]) -> list[tuple[str, str]]:
    return list(made.get("parents", {}).items())


def _made(stage: Stage) -> dict[str, Any]:
    """Names and values of all that is known of how a stage was made."""
    made, known = stage.artefact or {}, stage.provenance or {}
    data = known.get("data", {})
    told = {key: made[key] for key in ("base", "base_fingerprint", "precision", "device") if made}
    told |= {"artefact": made.get("fingerprint"), **{f"parent {k}": v for k, v in _parents(made)}}
    if stage.kind == "reward" and made:
        told |= {"score is": f"(raw - {made['reward_mean']:.6g}) / {made['reward_std']:.6g}"}
    told |= {f"data {key}": value for key, value in data.items() if key != "skipped"}
    told |= {f"skipped: {why}": count for why, count in data.get("skipped", {}).items()}
    told |= {"commit": known.get("commit"), "threads": known.get("threads")}
    told |= known.get("versions", {})
    return {key: value for key, value in told.items() if value is not None}


def _curves(stage: Stage) -> Iterator[Markup]:
    charts = {tag: curve for tag, curve in stage.curves.items() if len(curve.steps) > 1}
    if not charts:
        yield prose(f"{stage.name} has no curves.")
    unit = "iteration" if stage.kind == "ppo" else "step"
    kept = stage.artefact["steps"] if stage.artefact and stage.artefact["kept_by"] else None
    drawn = {
        tag: line_chart(
            f"{stage.name}: {tag}",
            [curve.series(tag)],
            x_label=unit,
            y_label=tag.partition("/")[2],
            mark=kept,
        )
        for tag, curve in charts.items()
    }
    yield from (drawn[tag] for tag in FIRST if tag in drawn)
    others = [chart for tag, chart in drawn.items() if tag not in FIRST]
    if others:
        grid = element("div", *others, class_="parts")
        yield unfolding(f"{len(others)} more curves of {stage.name}", [grid])
    once = {
        tag: f"{number(curve.values[0])} at {unit} {curve.steps[0]:,}"
        for tag, curve in stage.curves.items()
        if len(curve.steps) == 1
    }
    if once:
        yield prose(f"{stage.name}, measured once:")
        yield facts(once)
