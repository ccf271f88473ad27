"""Which alarm tells that PPO over-optimises its reward: runs on the toy world, and one table.

    python benchmarks/overoptimisation.py
    python benchmarks/overoptimisation.py --seeds 0 --minutes 30

The thresholds were chosen on seeds 0 to 4 and are shown on seeds 10 to 14. Of each seed up to three
runs:

- over: nothing is asked for KL, 24 iterations, against a plain reward model, one without the
  likelihood feature, trained on 3,840 pairs;
- few: the same, and the plain reward model is poor on purpose: trained on 32 pairs over and over.
  The fewer its pairs, the sooner a reward model is over-optimised (Gao et al. 2022,
  https://arxiv.org/abs/2210.10760);
- healthy: the quickstart's own reward model (with the feature) and settings.

A panel looks on and acts on nothing: a reward model of the same kind as the one optimised, and one
of the other kind, each on other pairs and none on few; and gold. What each alarm would have
said, and which state it would have kept, is worked out from the panel's readings by the rules that
the watch follows.

Every piece is a process of its own with one thread, and a finished one is not run again; after
`--minutes` no further one is begun. Writes benchmarks/results/overoptimisation.json, with every
reading, and docs/overoptimisation.md, of the runs that there are.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alarms import ALARMS, Run, verdict
from overoptimisation_page import FEATURE, page
from quickstart import HOW, LOGS, RESULTS, ROOT, commit

CHOSEN_ON, SHOWN_ON = (0, 1, 2, 3, 4), (10, 11, 12, 13, 14)
SETTINGS = "configs/quickstart"
# A plain reward model, with fewer steps. Each kind has pairs of seeds of its own.
PLAIN = ["--model.init_args.reference_likelihood", "false"]
PLAIN += ["--model.init_args.total_steps", "120"]
FEW = [*PLAIN, "--data.path", "few_pairs:pairs"]
MODELS: dict[str, tuple[int, list[str]]] = {
    "reward": (0, []),
    "plain": (100, PLAIN),
    "plain-few": (100, FEW),
    "plain-judge": (200, PLAIN),
    "feature-judge": (300, []),
}
OVER = {
    "model.init_args.total_iterations": "24",
    "model.init_args.objective.kl_coef": "0.0",
}
PLAIN_JUDGES = {"same": "plain-judge", "other": "feature-judge"}
# Of each run: the reward model to maximise, the judges of its kind and of the other, settings.
RUNS: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "over": ("plain", PLAIN_JUDGES, OVER),
    "few": ("plain-few", PLAIN_JUDGES, OVER),
    "healthy": ("reward", {"same": "feature-judge", "other": "plain-judge"}, {}),
}


def folder_of(seed: int) -> Path:
    """Of a seed's run."""
    return LOGS / f"over-{seed}"


def stage(seed: int, config: str, name: str, *more: str, data: int | None = None) -> list[str]:
    """The command line of one stage of a seed's run, on the seed's data or another's."""
    drawn = str(seed if data is None else data)
    command = ["fit", "--config", f"{SETTINGS}/{config}.yaml", "--run", f"over-{seed}"]
    command += ["--name", name, "--seed_everything", drawn, "--data.seed", drawn]
    return [*command, "--trainer.enable_progress_bar", "false", *more]


def policy(seed: int, name: str) -> list[str]:
    """A run of PPO with the panel looking on."""
    reward, judges, overrides = RUNS[name]
    models = {judge: str(folder_of(seed) / model / "artefact") for judge, model in judges.items()}
    arguments = {"models": models, "out": str(folder_of(seed) / f"{name}.jsonl")}
    panel = {"class_path": "panel.Panel", "init_args": arguments}
    more = [text for key, value in overrides.items() for text in (f"--{key}", value)]
    more += ["--model.init_args.reward", str(folder_of(seed) / reward / "artefact")]
    more += ["--model.init_args.accept_bad_card", "true", "--watch", "null"]
    return stage(seed, "ppo", name, *more, "--trainer.callbacks", json.dumps([panel]))


def pieces(seeds: Sequence[int]) -> Iterator[tuple[int, str, list[str]]]:
    """All that is to be run: seed, name and command line."""
    for seed in seeds:
        yield seed, "sft", stage(seed, "sft", "sft")
        for name, (pairs, settings) in MODELS.items():
            yield seed, name, stage(seed, "reward", name, *settings, data=pairs + seed)
        for name in RUNS:
            yield seed, name, policy(seed, name)


def run_piece(seed: int, name: str, arguments: list[str]) -> bool:
    """Run a piece unless it is there; whether it is there then."""
    done = folder_of(seed) / name / "artefact" / "forge.json"
    if done.is_file():
        return True
    log = LOGS / f"over-{seed}-{name}.log"
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    parts = [str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(part for part in parts if part)
    started = time.perf_counter()
    with log.open("w") as file:
        command = [sys.executable, "-m", "rlhf_forge", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=file, check=False)
    seconds = time.perf_counter() - started
    print(f"over-{seed} {name}: {'done' if done.is_file() else f'FAILED ({log})'}", end=" ")
    print(f"in {seconds:.0f} s", flush=True)
    if done.is_file():
        made = {"commit": commit(), "date": time.strftime("%Y-%m-%d")}
        (folder_of(seed) / name / HOW).write_text(json.dumps(made))
    return done.is_file()


def collected() -> list[dict[str, Any]]:
    """All runs that are finished, with their readings and what every alarm made of them."""
    rows = []
    for seed in (*CHOSEN_ON, *SHOWN_ON):
        for name in RUNS:
            made = folder_of(seed) / name / HOW
            if not made.is_file():
                continue
            run = Run.of(folder_of(seed) / f"{name}.jsonl")
            rows.append(
                {
                    "seed": seed,
                    "run": name,
                    **json.loads(made.read_text()),
                    "iteration": [reading.iteration for reading in run.readings],
                    "reward": [reading.score for reading in run.readings],
                    "kl": [reading.kl for reading in run.readings],
                    "accuracy": [reading.accuracy for reading in run.readings],
                    **{f"judge_{judge}": run.means(judge) for judge in run.judges},
                    **{f"spread_{name}": run.spreads(name) for name in ("same", "other")},
                    "alarms": alarms_of(run, name),
                }
            )
    return rows


def alarms_of(run: Run, name: str) -> dict[str, Any]:
    """What every alarm made of a run, the judge that has the feature by that name, too."""
    found = {alarm: verdict(run, alarm) for alarm in ALARMS}
    judges = RUNS[name][1]
    return found | {FEATURE: next(found[j] for j in judges if judges[j] == "feature-judge")}


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[*CHOSEN_ON, *SHOWN_ON])
    parser.add_argument("--minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    LOGS.mkdir(exist_ok=True)
    failed = []
    for seed, name, command in pieces(arguments.seeds):
        if time.monotonic() > end:
            break
        if not run_piece(seed, name, command):
            failed.append(f"{seed} {name}")
    rows = collected()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "overoptimisation.json").write_text(json.dumps(rows, indent=1) + "\n")
    (ROOT / "docs" / "overoptimisation.md").write_text(page(rows, CHOSEN_ON, SHOWN_ON))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
