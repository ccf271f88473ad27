"""Golden values: a few texts and what a role makes of them, to know it again by."""

import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_warn

from rlhf_forge.artefact import Manifest, check_golden
from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.scoring import score
from rlhf_forge.data.records import Demonstration, Pair, Record, assistant
from rlhf_forge.data.render import ChatTemplate
from rlhf_forge.data.tokenize import Example

Row = tuple[list[int], list[int]]


def golden_rows(examples: Sequence[Example], template: ChatTemplate, number: int) -> list[Row]:
    """(tokens, targets) of the first held-out conversations; prompts get a fixed answer."""
    records = [example.record for example in examples[:number]]
    return [_row(record, template) for record in records]


def _row(record: Record, template: ChatTemplate) -> Row:
    if isinstance(record, Pair):
        response = record.chosen
    elif isinstance(record, Demonstration):
        response = record.response
    else:
        response = assistant("Yes.")
    tokens, targets = template.answered(record.prompt, response)
    return tokens, [int(target) for target in targets]


def golden_values(backbone: Backbone, role: str, rows: Sequence[Row]) -> list[float]:
    """Of each row alone: normalised score if the role has a head, else mean log-prob in nats."""
    return [_value(backbone, role, *row) for row in rows]


def require_golden(
    backbone: Backbone, role: str, manifest: Manifest, *, precision: str, where: str
) -> None:
    """Check that ``role``, loaded from an artefact, gives the values it was saved with.

    Warns where another precision or device explains a difference.

    Raises:
        UserError: If nothing does: see `rlhf_forge.artefact.check_golden`.
    """
    rows = [(golden.tokens, golden.targets) for golden in manifest.golden]
    with torch.no_grad():
        values = golden_values(backbone, role, rows)
    device = setup_name(backbone.device)
    warning = check_golden(manifest, values, precision=precision, device=device, where=Path(where))
    if warning is not None:
        rank_zero_warn(warning)


def setup_name(device: torch.device) -> str:
    """The device as golden values depend on it: its kind, its instructions, torch's version."""
    kind = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    )
    return f"{device.type} {kind}, torch {torch.__version__}"


def _value(backbone: Backbone, role: str, tokens: list[int], targets: list[int]) -> float:
    ids = torch.tensor([tokens], device=backbone.device)
    mask = torch.tensor([targets], device=backbone.device).bool()
    if role in backbone.heads:
        return score(backbone, ids, mask, role=role).item()
    with backbone.using(role):
        log_probs, _ = backbone.log_probs(ids, mask, temperature=1.0)
    return log_probs.sum().item() / max(int(mask.sum()), 1)
