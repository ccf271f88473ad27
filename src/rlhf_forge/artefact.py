"""The folder every stage ends with: its manifest, and whether the next stage may build on it."""

import json
import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rlhf_forge.errors import UserError

MANIFEST = "forge.json"
FORMAT = 1
# Golden values, in standard deviations of the golden values themselves (DESIGN: on another
# precision or device), and absolutely on an equal set-up.
EQUAL_TOLERANCE = 1e-4
WARN_ABOVE = 0.1
REFUSE_ABOVE = 0.5


@dataclass(frozen=True)
class Golden:
    """A text and what the role made of it when it was saved.

    Attributes:
        tokens: The whole sequence, prompt and response.
        targets: 1 on response tokens, 0 elsewhere.
        value: Normalised score of a reward model; mean response log-prob (nats) of a policy.
    """

    tokens: list[int]
    targets: list[int]
    value: float


@dataclass(frozen=True)
class Manifest:
    """What ``forge.json`` says.

    Attributes:
        stage: sft, reward, ppo or dpo.
        base: Name of the base as the config gave it.
        base_fingerprint: Content fingerprint of the base.
        precision: nf4, bf16 or fp32: how the base was held when the goldens were taken.
        device: Kind of device they were taken on.
        tokenizer_hash: Of the tokenizer's own file.
        template_hash: Of the chat template.
        chat_template: The template's text.
        fingerprint: Of config, seed, parents and data: what would have to change for a new run.
        parents: Fingerprint of each parent artefact, by its role.
        reward_mean: Subtracted from raw scores. 0 for policies.
        reward_std: Raw scores are divided by it. 1 for policies.
        golden: About eight texts with their values.
        metrics: End metrics of the run.
        steps: Batches that it was trained on.
        planned_steps: What the config asked for: more, if EarlyStopping ended the run.
        kept_by: The metric by which this is the best state of its run; empty if it is the last.
        format: Version of this file.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    stage: str
    base: str
    base_fingerprint: str
    precision: str
    device: str
    tokenizer_hash: str
    template_hash: str
    chat_template: str
    fingerprint: str
    golden: list[Golden]
    parents: dict[str, str] = field(default_factory=dict)
    reward_mean: float = 0.0
    reward_std: float = 1.0
    metrics: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    planned_steps: int = 0
    kept_by: str = ""
    format: int = FORMAT


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``forge.json`` into ``folder``."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read an artefact's manifest.

    Raises:
        UserError: If there is none, it is broken, or a newer rlhf_forge wrote it.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no artefact here ({MANIFEST} is missing)",
            hint="run the stage that writes it, or give the path of another artefact",
        ) from None
    try:
        fields: Any = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError):
        fields = None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: broken, or not written by rlhf_forge")
    version = fields.get("format")
    if version != FORMAT:
        raise UserError(f"{path}: format {version}, this rlhf_forge reads format {FORMAT}")
    try:
        return TypeAdapter(Manifest).validate_json(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: not a manifest of format {FORMAT} ({key}: {first['msg']})"
        ) from None


@dataclass(frozen=True)
class Expected:
    """What an artefact must have been made with to be built on here."""

    base_fingerprint: str
    tokenizer_hash: str
    template_hash: str


def check_fits(manifest: Manifest, expected: Expected, where: Path) -> None:
    """Refuse an artefact that was made with another base, tokenizer or chat template.

    Raises:
        UserError: Naming what differs.
    """
    for name, what in (
        ("base_fingerprint", "another base"),
        ("tokenizer_hash", "another tokenizer"),
        ("template_hash", "another chat template"),
    ):
        theirs, ours = getattr(manifest, name), getattr(expected, name)
        if theirs != ours:
            raise UserError(
                f"{where}: this {manifest.stage} artefact was made with {what} than this run's "
                f"({theirs[:12]}, not {ours[:12]}); its base is {manifest.base}",
                hint="give the artefact of this base and template, or train that stage again",
            )


def require_stage(manifest: Manifest, where: Path, *stages: str) -> None:
    """Refuse an artefact of another stage than ``stages``.

    Raises:
        UserError: Naming both.
    """
    if manifest.stage not in stages:
        wanted = " or ".join(stages)
        raise UserError(f"{where}: a {manifest.stage} artefact, where one of {wanted} is wanted")


def reference_of(folder: Path, *, near: Sequence[Path] = ()) -> Path | None:
    """The SFT artefact that a reward model was trained from, known by its fingerprint.

    A reward model may read how likely that model finds an answer, so it is not to be scored with
    any other.

    Args:
        folder: Artefact of the reward model; the SFT artefacts of its run lie beside it.
        near: Artefacts that are looked at first.

    Returns:
        None if it was trained from the bare base.

    Raises:
        UserError: If it is not there.
    """
    wanted = read_manifest(folder).parents.get("sft")
    if wanted is None:
        return None
    run = folder.resolve().parent.parent
    for place in (*near, *sorted(run.glob("*/artefact"))):
        with suppress(UserError):  # what is broken is not the one
            if read_manifest(place).fingerprint == wanted:
                return place
    raise UserError(
        f"{folder}: this reward model reads how likely its SFT model finds an answer, and the SFT "
        f"artefact it was trained from ({wanted[:12]}) is not here",
        hint=f"put it beside the reward model: {run / 'sft' / 'artefact'}",
    )


def check_golden(
    manifest: Manifest, values: Sequence[float], *, precision: str, device: str, where: Path
) -> str | None:
    """Compare the artefact's golden values with those measured now.

    Args:
        manifest: The artefact's.
        values: What this run makes of the golden texts, in their order.
        precision: Of this run's base.
        device: Kind of device of this run.
        where: The artefact's folder, for the message.

    Returns:
        A warning to show, or None.

    Raises:
        UserError: If they are further apart than the set-up explains.
    """
    stored = [golden.value for golden in manifest.golden]
    gaps = [abs(a - b) for a, b in zip(stored, values, strict=True)]
    # Neither max nor > sees nan.
    gap = math.nan if any(map(math.isnan, gaps)) else max(gaps, default=0.0)
    if (precision, device) == (manifest.precision, manifest.device):
        if gap <= EQUAL_TOLERANCE:
            return None
        raise UserError(
            f"{where}: its golden values come out {gap:.2g} off on an equal set-up "
            f"(allowed {EQUAL_TOLERANCE:g})",
            hint="the weights, the tokenizer or the library versions changed; train it again",
        )
    spread = statistics.stdev(stored) if len(stored) > 1 else 1.0
    relative = gap / max(spread, 1e-8)
    setup = f"{manifest.precision} on {manifest.device} then, {precision} on {device} now"
    if not relative <= REFUSE_ABOVE:
        raise UserError(
            f"{where}: its golden values come out {relative:.2f} std off ({setup}; "
            f"allowed {REFUSE_ABOVE:g})",
            hint="train this stage with this run's precision",
        )
    if relative > WARN_ABOVE:
        return f"{where}: golden values differ by {relative:.2f} std ({setup})"
    return None
