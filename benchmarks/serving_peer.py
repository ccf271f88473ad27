"""The server against `transformers serve`, 16 callers each, on the same random Mistral.

    python benchmarks/serving_peer.py --size 31M

Both serve one float32 base with one chat template as processes of their own, with `OMP_NUM_THREADS`
from the environment, and are asked the same streams in turn (A B A B). Theirs runs as it comes, and
with its continuous batching. Ours holds two adapters more, which nobody asks here.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from serving import (
    RESULTS,
    WORDS,
    callers,
    free_port,
    processor_seconds,
    running,
    served,
    summary,
    write_run,
)
from work import SIZES

THEIRS = {"transformers serve": [], "its continuous batching": ["--continuous-batching"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="31M")
    parser.add_argument("--requests", type=int, default=32, help="of each pass")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2, help="passes of each server")
    parser.add_argument("--json", type=Path, default=RESULTS / "serving-peer.json")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        run = write_run(Path(folder), arguments.size)
        model = templated_base(Path(folder))
        passes: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ours", *THEIRS)}
        for _ in range(arguments.rounds):
            with served(run) as (port, process):
                passes["ours"].append(asked(port, process, "base", arguments))
            for name, options in THEIRS.items():
                with peer(model, options) as (port, process):
                    passes[name].append(asked(port, process, str(model), arguments))
    row = {
        "size": arguments.size,
        "callers": arguments.callers,
        "requests": arguments.requests,
        "max_tokens": arguments.max_tokens,
        "passes": passes,
        "against": {name: against(passes["ours"], passes[name]) for name in THEIRS},
        "transformers": transformers.__version__,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "cores": os.cpu_count(),
        "load": round(load, 1),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
    print(json.dumps(row, indent=1))
    arguments.json.write_text(json.dumps(row, indent=1) + "\n")


def templated_base(folder: Path) -> Path:
    """The base with the tokenizer of an artefact, which knows the chat template."""
    model = folder / "templated"
    shutil.copytree(folder / "base", model)
    artefact = folder / "run" / "sft" / "artefact"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(artefact / name, model / name)
    return model


def asked(port: int, process: int, model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One pass, after a few requests that warm up."""
    rng = random.Random(0)
    bodies = [
        {
            "model": model,
            "messages": [{"role": "user", "content": " ".join(rng.choices(WORDS, k=8))}],
            "max_tokens": arguments.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for _ in range(arguments.requests)
    ]
    asyncio.run(callers(port, bodies[:4], 2))
    cpu, clock = processor_seconds(process), time.perf_counter()
    heard = asyncio.run(callers(port, bodies, arguments.callers))
    seconds = time.perf_counter() - clock
    return summary(heard, seconds, processor_seconds(process) - cpu)


def against(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, float]:
    """Ours over theirs, medians."""
    names = ("tokens_per_s", "tokens_per_cpu_s", "first_token_p95")
    return {
        name: round(median(p[name] for p in ours) / median(p[name] for p in theirs), 3)
        for name in names
    }


@contextmanager
def peer(model: Path, options: list[str]) -> Iterator[tuple[int, int]]:
    """`transformers serve` of ``model``: its port and its process."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(model), *options]
    command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, f"http://127.0.0.1:{port}/health") as process:
        yield port, process


if __name__ == "__main__":
    main()
