"""The model card of an artefact."""

import re
from pathlib import Path

from rlhf_forge.artefact import Manifest
from rlhf_forge.backbone.adapter_files import member_folders
from rlhf_forge.evaluation.report_card import ReportCard

CARD = """---
base_model: {base}
library_name: peft
tags: [rlhf, {stage}, lora]
---

# {title}

A LoRA adapter trained by the {stage} stage of rlhf_forge on `{base}`
({precision}, fingerprint `{fingerprint}`){ended}.

{parents}

| metric | value |
|---|---|
{metrics}
{report}
Scores of a reward model are `(raw - {mean:.6g}) / {std:.6g}`; `forge.json` holds both numbers.
{members}
## Use

{use}
"""

MEMBERS = """This adapter is the first of an ensemble; {others} more lie in `member_1` and so on,
each with a scale of its own in `head.safetensors`. rlhf_forge takes the mean of their scores.
"""
USE_POLICY = """```python
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained("THIS_FOLDER")
```"""
USE_REWARD = """```python
from peft import AutoPeftModelForSequenceClassification
model = AutoPeftModelForSequenceClassification.from_pretrained("THIS_FOLDER", num_labels=1)
```"""


REPORT = """
## Report card: {verdict}

On {n} held-out pairs. Intervals are at 95 %; `card.json` holds more, the most confident mistakes
among it.

| check | value | 95 % | n | verdict | why |
|---|---|---|---|---|---|
{checks}
"""


def write_card(manifest: Manifest, folder: Path, report: ReportCard | None = None) -> None:
    """Write ``README.md`` from what the manifest knows, and the report card of a reward model."""
    parents = [f"Parent: {role} `{fp[:12]}`." for role, fp in manifest.parents.items()]
    metrics = [f"| {name} | {value:.4g} |" for name, value in sorted(manifest.metrics.items())]
    others = len(member_folders(folder))
    text = CARD.format(
        base=manifest.base,
        stage=manifest.stage,
        title=f"{manifest.stage} on {manifest.base}",
        precision=manifest.precision,
        fingerprint=manifest.base_fingerprint[:12],
        ended=_ended(manifest),
        parents=" ".join(parents) or "No parents.",
        metrics="\n".join(metrics),
        report="" if report is None else _report(report),
        members="" if others == 0 else MEMBERS.format(others=others),
        mean=manifest.reward_mean,
        std=manifest.reward_std,
        use=USE_REWARD if manifest.stage == "reward" else USE_POLICY,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _ended(manifest: Manifest) -> str:
    steps = f"after {manifest.steps} of {manifest.planned_steps} steps"
    if manifest.kept_by:
        return f": the best of its run by {manifest.kept_by}, {steps}"
    return f", ended early {steps}" if manifest.steps < manifest.planned_steps else ""


def _report(card: ReportCard) -> str:
    rows = [
        f"| {check.name} | {check.value:.3f} | {check.interval} | {check.n} | {check.verdict} "
        f"| {_cell(check.reason)} |"
        for check in card.checks
    ]
    return REPORT.format(verdict=card.verdict, n=card.n, checks="\n".join(rows))


def _cell(text: str) -> str:
    """Text that may hold names from the data, as it stands in a cell of a Markdown table."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return re.sub(r"([\\`*_{}\[\]<>()#!|&])", r"\\\1", line)
