"""A finished run as its stages would leave it, written without training anything."""

import json
import math
from pathlib import Path
from typing import Any

import yaml
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

from rlhf_forge.artefact import Manifest, write_manifest

STEPS = {"sft": 150, "reward": 220, "ppo": 14}
PARENTS = {"sft": {}, "reward": {"sft": "a" * 64}, "ppo": {"sft": "a" * 64, "reward": "b" * 64}}
PRINTS = {"sft": "a" * 64, "reward": "b" * 64, "ppo": "c" * 64}
PROMPTS = 40


def write_run(folder: Path, *, text: str = "With pleasure. The capital is Nubia.") -> Path:
    """SFT, reward model and PPO with all that a report can show.

    Args:
        folder: Of the run.
        text: What data and models say, and every name that they or a config may give.
    """
    for kind in STEPS:
        stage = folder / kind
        write_events(stage, curves_of(kind))
        write_artefact(stage, kind, text)
        config = {"data": {"path": text}, "model": {"class_path": f"rlhf_forge.modules.{kind}.M"}}
        (stage / "config.yaml").write_text(yaml.safe_dump(config))
        write(stage / "seconds.json", {"seconds": 60.5})
        write(stage / "provenance.json", provenance(text))
    write(folder / "reward" / "artefact" / "card.json", card(text))
    write_lines(folder / "ppo" / "watch.jsonl", readings(text))
    write_lines(folder / "ppo" / "samples.jsonl", [{"iteration": 14, "prompt": text, "ppo": text}])
    write(folder / "summary.json", summary(text))
    write_lines(folder / "responses.jsonl", responses(text))
    return folder


def write(path: Path, content: Any) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """As JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_events(folder: Path, curves: dict[str, list[float]], *, first_step: int = 0) -> None:
    """Curves as TensorBoard events, one a step; the file is read after those that are there."""
    before = set(folder.glob("events*"))
    writer = EventFileWriter(str(folder))
    for tag, values in curves.items():
        for step, value in enumerate(values, first_step):
            told = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=1000.0 + step, step=step, summary=told))
    writer.close()
    # Its own name ends with a count without zeros: of one second the 10th sorts before the 9th.
    [written] = set(folder.glob("events*")) - before
    written.rename(folder / f"events.out.tfevents.{len(before):010d}")


def write_artefact(stage: Path, kind: str, text: str = "x", *, steps: int | None = None) -> None:
    """Its manifest: a report reads nothing else of it."""
    (stage / "artefact").mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        stage=kind,
        base=text,
        base_fingerprint="f" * 64,
        precision="fp32",
        device="cpu",
        tokenizer_hash="0",
        template_hash="1",
        chat_template=text,
        fingerprint=PRINTS[kind],
        golden=[],
        parents=PARENTS[kind],
        steps=steps or STEPS[kind],
        planned_steps=STEPS[kind],
    )
    write_manifest(manifest, stage / "artefact")


def curves_of(kind: str) -> dict[str, list[float]]:
    """Those of a run in which all goes well."""
    at = range(STEPS[kind])
    if kind != "ppo":
        rising = [0.5 + 0.4 * step / STEPS[kind] for step in at]
        found = {f"{kind}/loss": [1 - y for y in rising], f"{kind}/skipped": [0.0 for _ in at]}
        more = {"reward/accuracy": rising} if kind == "reward" else {}
        return found | more
    return {
        "objective/kl": [0.2 * step for step in at],
        "objective/score": [math.tanh(step / 5) for step in at],
        "rollout/length": [20 - step / 7 for step in at],
        "value/explained_variance": [step / 20 for step in at],
        "policy/skipped": [0.0 for _ in at],
        "time/update": [2.5 for _ in at],
    }


def provenance(text: str) -> dict[str, Any]:
    """As `rlhf_forge.callbacks.provenance` writes it."""
    data = {"path": text, "format": text, "records": 1000, "skipped": {text: 3}}
    data |= {"train": 900, "held_out": 97, "fingerprint": "d" * 64}
    versions = {"python": "3.12.1", "torch": "2.13.0"}
    return {"versions": versions, "commit": "b0719ed", "threads": 2, "data": data}


def share(value: float, n: int = 100) -> dict[str, Any]:
    """With an interval of some width."""
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}


def card(text: str, verdict: str = "doubtful") -> dict[str, Any]:
    """As reward training writes it."""
    checks = [
        ("accuracy", "good", share(0.84)),
        ("shorter_chosen", verdict, share(0.55)),
        ("calibration", verdict, {"value": 0.06, "low": None, "high": None, "n": 300}),
    ]
    return {
        "format": 1,
        "verdict": verdict,
        "checks": [
            {"name": name, "verdict": of, "threshold": f"good: {text}", "reason": text} | value
            for name, of, value in checks
        ],
        "n": 300,
        "ceiling": 0.88,
        "longer_wins": 0.55,
        "majority": 0.55,
        "sources": {text: share(0.9), "style": share(0.75)},
        "length_gaps": {"chosen shorter": share(0.6), "as long": share(0.0, 0)},
        "reliability": {
            "error": 0.06,
            "nll": 0.44,
            "nll_fitted": 0.43,
            "temperature": 1.2,
            "off": False,
            "bins": [
                {"low": 0.5, "high": 0.6, "confidence": 0.56, "accuracy": 0.5, "n": 40},
                {"low": 0.9, "high": 1.0, "confidence": 0.95, "accuracy": 0.9, "n": 60},
            ],
        },
        "histogram": {"edges": [-2, -1, 0, 1], "chosen": [1, 3, 6], "rejected": [6, 3, 1]},
        "margin": {"value": 1.2, "se": 0.1, "n": 300},
        "margin_median": 1.1,
        "probes": {"empty": {"below": share(0.98), "gain": {"value": -2.1, "se": 0.1, "n": 48}}},
        "mistakes": [
            {"margin": -2.2, "origin": text, "prompt": text, "chosen": text, "rejected": text}
        ],
        "disagreement": None,
    }


def readings(text: str) -> list[dict[str, Any]]:
    """Of the watch: the judge rises, and falls behind iteration 8."""
    return [
        {
            "iteration": at,
            "score": 0.1 * at,
            "score_at_equal_length": 0.09 * at,
            "judge": math.sin(at / 5),
            "kl": 0.25 * at,
            "length": 20.0,
            "eos": 1.0,
            "repetition": 0.0,
            "distinct_bigrams": 0.4,
            "findings": [text] if at == 14 else [],
        }
        for at in range(0, 15, 2)
    ]


def summary(text: str) -> dict[str, Any]:
    """As the pipeline writes it; the judge is a function."""
    model = {"gold_se": 0.04, "accuracy_greedy": None, "eos": 1.0, "n": PROMPTS}
    return {
        "folder": "configs/quickstart",
        "seed": 0,
        "data_seed": 1,
        "precision": None,
        "judge": "mine:score",
        "models": {
            "base": model | {"gold": -2.4, "accuracy": 0.03, "kl": 49.0, "length": 20.0},
            "sft": model | {"gold": 1.47, "accuracy": 0.95, "kl": 0.0, "length": 20.5},
            "ppo": model | {"gold": 2.42, "accuracy": 0.97, "kl": 2.7, "length": 17.0},
        },
        "gain": {"gold": 0.95, "se": 0.04},
        "win_rate": {"ppo_vs_sft": 0.84, "low": 0.81, "high": 0.87},
        "policies": {},
        "reward": {
            "mixed": {"accuracy": 0.86, "low": 0.84, "high": 0.88, "ceiling": None, "n": 1200},
            text: {"accuracy": 0.79, "low": 0.75, "high": 0.83, "ceiling": 0.82, "n": 300},
        },
        "seconds": {"sft": 60.5, "reward": 60.5, "ppo": 60.5, "evaluate": 30.0, "export": 0.5},
        "peak_rss_mib": 1064.7,
    }


def responses(text: str) -> list[dict[str, Any]]:
    """To each prompt those of all models."""
    return [
        {
            "prompt": f"{text} {row}",
            "models": {
                name: {
                    "text": f"{name} {row} {text}",
                    "score": gold + 0.3 * math.sin(row + gold),
                    "tokens": 10 + row % 7,
                    "finished": row > 0,
                }
                for name, gold in (("base", -2.4), ("sft", 1.5), ("ppo", 2.4))
            },
        }
        for row in range(PROMPTS)
    ]
