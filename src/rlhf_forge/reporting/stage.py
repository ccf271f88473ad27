"""One stage of a run, as its folder tells it."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rlhf_forge.artefact import MANIFEST, read_manifest
from rlhf_forge.errors import UserError
from rlhf_forge.reporting.curves import Curve, Logged, read_curves
from rlhf_forge.run_folder import CONFIG, EXPORT, PROVENANCE, SAMPLES, TIMES

ORDER = ("sft", "reward", "dpo", "ppo")
POLICIES = ("ppo", "dpo")
ARTEFACT = "artefact"
CARD, CARD_FORMAT = "card.json", 1
WATCH = "watch.jsonl"
SET_ASIDE = re.compile(r"(.+)\.\d+")
# Of the manifest: what a person may want to know of an artefact.
TOLD = (
    "base",
    "base_fingerprint",
    "precision",
    "device",
    "fingerprint",
    "parents",
    "tokenizer_hash",
    "template_hash",
    "reward_mean",
    "reward_std",
    "steps",
    "planned_steps",
    "kept_by",
    "metrics",
)


@dataclass(frozen=True)
class Missing:
    """Something that a report would show and the run does not have.

    Attributes:
        what: File or stage.
        so: What the report is without, or what that means.
    """

    what: str
    so: str


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
        name: Of its folder.
        kind: sft, reward, dpo or ppo; "" if neither artefact nor config tells.
        config: As it was trained; empty if it is not there.
        artefact: What the manifest says, see `TOLD`; None if the stage has not finished.
        provenance: Data and versions; None if not known.
        seconds: That a pipeline measured.
        logged: Curves; None if there are no events.
        samples: Lines of samples.jsonl.
        watch: Lines of watch.jsonl.
        card: The report card of a reward model.
        missing: What is not there.
    """

    name: str
    kind: str
    config: dict[str, Any]
    artefact: dict[str, Any] | None
    provenance: dict[str, Any] | None
    seconds: float | None
    logged: Logged | None
    samples: list[dict[str, Any]]
    watch: list[dict[str, Any]]
    card: dict[str, Any] | None
    missing: list[Missing] = field(default_factory=list)

    @property
    def curves(self) -> dict[str, Curve]:
        """What was logged, by tag; nothing if there are no events."""
        return {} if self.logged is None else self.logged.curves

    def last(self, tag: str) -> float | None:
        """The last finite value of a curve."""
        values = self.values(tag)
        return values[-1] if values else None

    def values(self, tag: str) -> list[float]:
        """The finite values of a curve; none if it was not logged."""
        return self.curves[tag].finite if tag in self.curves else []


def stages_in(run: Path) -> list[Stage]:
    """The stages of a run, in the order of training; folders that were set aside left out."""
    names = {path.name for path in run.iterdir() if path.is_dir()} - {EXPORT}
    aside = {name for name in names if (m := SET_ASIDE.fullmatch(name)) and m[1] in names}
    stages = [_stage(run / name) for name in sorted(names - aside) if _is_stage(run / name)]
    return sorted(stages, key=lambda stage: _turn(stage.kind, stage.name))


def read_lines(path: Path, missing: list[Missing], so: str) -> list[dict[str, Any]]:
    """The lines of a file of JSON lines; none, and a note, if it is not there or broken."""
    if not path.is_file():
        missing.append(Missing(_place(path), so))
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # The last one of a run that was killed may be cut.
    whole = [line for line in lines if line.endswith("\n")]
    try:
        return [json.loads(line) for line in whole]
    except json.JSONDecodeError as error:
        missing.append(Missing(_place(path), f"broken ({error}), so {so}"))
        return []


def read_object(path: Path, missing: list[Missing], so: str) -> dict[str, Any] | None:
    """The JSON object in a file; None, and a note, if it is not there or broken."""
    if not path.is_file():
        missing.append(Missing(_place(path), so))
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        missing.append(Missing(_place(path), f"broken ({error}), so {so}"))
        return None
    if not isinstance(found, dict):
        missing.append(Missing(_place(path), f"broken (no object), so {so}"))
        return None
    return found


def _is_stage(folder: Path) -> bool:
    marks = (folder / CONFIG, folder / ARTEFACT / MANIFEST)
    return any(map(Path.is_file, marks)) or any(folder.glob("events.out.tfevents.*"))


def _turn(kind: str, name: str) -> tuple[int, bool, str]:
    """A stage that is called as its kind comes before those with a name of their own."""
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), name != kind, name)


def _stage(folder: Path) -> Stage:
    missing: list[Missing] = []
    artefact = _artefact(folder / ARTEFACT, missing)
    config = _config(folder / CONFIG, missing)
    kind = _kind(artefact, config) or (folder.name if folder.name in ORDER else "")
    logged = read_curves(folder)
    if logged is None:
        missing.append(Missing(_place(folder / "events.out.tfevents.*"), "no curves"))
    seconds = read_object(folder / TIMES, [], "")
    known = read_object(folder / PROVENANCE, missing, "neither data nor versions are known")
    return Stage(
        name=folder.name,
        kind=kind,
        config=config,
        artefact=artefact and {key: artefact[key] for key in TOLD},
        provenance=known,
        seconds=None if seconds is None else float(seconds["seconds"]),
        logged=logged,
        samples=[] if kind != "ppo" else read_lines(folder / SAMPLES, missing, "no samples"),
        watch=[] if kind != "ppo" else read_lines(folder / WATCH, missing, "nobody watched PPO"),
        card=_card(folder / ARTEFACT / CARD, missing) if kind == "reward" and artefact else None,
        missing=missing,
    )


def _artefact(folder: Path, missing: list[Missing]) -> dict[str, Any] | None:
    try:
        return vars(read_manifest(folder))
    except UserError as error:
        there = (folder / MANIFEST).is_file()
        so = str(error) if there else "the stage has not finished"
        missing.append(Missing(_place(folder), so))
        return None


def _config(path: Path, missing: list[Missing]) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        missing.append(Missing(_place(path), f"broken: {str(error).splitlines()[0]}"))
        return {}
    if not isinstance(found, dict):
        missing.append(Missing(_place(path), "how it was trained is not known"))
        return {}
    return found


def _kind(artefact: dict[str, Any] | None, config: dict[str, Any]) -> str:
    """By the artefact, else by the class in the config: rlhf_forge.modules.ppo.PPOModule."""
    if artefact is not None:
        return str(artefact["stage"])
    model = config.get("model")
    path = str(model.get("class_path", "")) if isinstance(model, dict) else ""
    return path.split(".")[-2] if path.count(".") > 1 else ""


def _card(path: Path, missing: list[Missing]) -> dict[str, Any] | None:
    card = read_object(path, missing, "no report card of the reward model")
    if card is not None and card.get("format") != CARD_FORMAT:
        so = f"of format {card.get('format')}, and this reads {CARD_FORMAT}"
        missing.append(Missing(_place(path), so))
        return None
    return card


def _place(path: Path) -> str:
    """With the folders that tell one stage's from another's."""
    own = 3 if path.parent.name == ARTEFACT else 2
    return "/".join(path.parts[-own:])
