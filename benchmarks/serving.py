"""The server at 16 callers against one: tokens per second, and the wait for the first token.

    python benchmarks/serving.py --run lightning_logs/quickstart
    python benchmarks/serving.py --size 31M

The server runs as a process of its own, with `OMP_NUM_THREADS` from the environment. Every request
is a stream; callers take turns over the served models, so a batch mixes adapters. The same requests
with the same seeds are asked by one caller and by 16 in turn (A B A B), and the answers compared.
On a busy machine look at tokens per second of processor time, of the server's processes, beside
those by the clock.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import torch
from work import SIZES, write_work

RESULTS = Path(__file__).parent / "results"
CHAT = "/v1/chat/completions"
WORDS = ("capital", "snow", "river", "number", "colour", "bird", "city", "house", "answer", "day")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Heard:
    """One answer, as its caller saw it."""

    text: str
    tokens: int
    first: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a run's folder")
    parser.add_argument("--size", choices=list(SIZES), help="a random Mistral in place of a run")
    parser.add_argument("--requests", type=int, default=48, help="of each pass")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2, help="pairs of passes")
    parser.add_argument("--json", type=Path, default=RESULTS / "serving.json")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        run = arguments.run or write_run(Path(folder), arguments.size)
        with served(run) as (port, process):
            row = measured(port, process, arguments)
    row["served"] = arguments.size or arguments.run.name
    print(json.dumps(row))
    rows = json.loads(arguments.json.read_text()) if arguments.json.is_file() else []
    arguments.json.write_text(json.dumps([*rows, row], indent=1) + "\n")


def measured(port: int, process: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Passes by one caller and by several, in turn."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as answer:
        names = [model["id"] for model in json.load(answer)["data"] if model["id"] != "reward"]
    rng = random.Random(0)
    bodies = [
        {
            "model": names[number % len(names)],
            "messages": [{"role": "user", "content": " ".join(rng.choices(WORDS, k=8))}],
            "max_tokens": arguments.max_tokens,
            "seed": number,
            "temperature": 0 if number % 2 else 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for number in range(arguments.requests)
    ]
    asyncio.run(callers(port, bodies[:4], 2))
    load = os.getloadavg()[0]
    passes: dict[int, list[dict[str, Any]]] = {1: [], arguments.callers: []}
    answers: dict[int, list[str]] = {}
    for _ in range(arguments.rounds):
        for count, found in passes.items():
            cpu, clock = processor_seconds(process), time.perf_counter()
            heard = asyncio.run(callers(port, bodies, count))
            seconds = time.perf_counter() - clock
            answers[count] = [one.text for one in heard]
            found.append(summary(heard, seconds, processor_seconds(process) - cpu))
    alone, together = (median(p["tokens_per_s"] for p in found) for found in passes.values())
    cpu_alone, cpu_together = (
        median(p["tokens_per_cpu_s"] for p in found) for found in passes.values()
    )
    same = [a == b for a, b in zip(*answers.values(), strict=True)]
    return {
        "models": names,
        "requests": arguments.requests,
        "max_tokens": arguments.max_tokens,
        "passes": {str(count): found for count, found in passes.items()},
        "ratio": round(together / alone, 2),
        "ratio_by_processor": round(cpu_together / cpu_alone, 2),
        "same_answers": f"{sum(same)} of {len(same)}",
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "load": round(load, 1),
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def summary(heard: list[Heard], seconds: float, cpu: float) -> dict[str, Any]:
    """What a pass comes to."""
    tokens = sum(one.tokens for one in heard)
    firsts = quantiles([one.first for one in heard], n=20, method="inclusive")
    return {
        "tokens": tokens,
        "tokens_per_s": round(tokens / seconds, 1),
        "tokens_per_cpu_s": round(tokens / cpu, 1),
        "first_token_p50": round(firsts[9], 3),
        "first_token_p95": round(firsts[18], 3),
    }


async def callers(port: int, bodies: list[dict[str, Any]], count: int) -> list[Heard]:
    """All answers; each of ``count`` callers asks for the next as soon as it has one."""
    heard: list[Heard | None] = [None] * len(bodies)
    numbers = iter(range(len(bodies)))

    async def caller() -> None:
        for number in numbers:
            heard[number] = await ask(port, bodies[number])

    await asyncio.gather(*(caller() for _ in range(count)))
    return [one for one in heard if one is not None]


async def ask(port: int, body: dict[str, Any]) -> Heard:
    """One stream, read line by line: a client library would take longer than the server."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    text, first, tokens = "", 0.0, 0
    async for line in reader:
        if not line.startswith(b"data: "):
            assert b"HTTP/1.1" not in line or b" 200 " in line, line
            continue
        if line.startswith(b"data: [DONE]"):
            break
        event = json.loads(line[6:])
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
        if text and not first:
            first = time.perf_counter() - started
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    writer.close()
    return Heard(text, tokens, first)


@contextmanager
def served(run: Path, *options: str) -> Iterator[tuple[int, int]]:
    """A server of ``run``: its port and its process."""
    port = free_port()
    command = [sys.executable, "-m", "rlhf_forge", "serve", str(run), "--port", str(port)]
    with running([*command, *options], f"http://127.0.0.1:{port}/health/ready") as process:
        yield port, process


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: list[str], health: str) -> Iterator[int]:
    """A server's process, from when its address of health answers until the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(health).close()
                break
            except OSError:
                assert process.poll() is None, "the server did not start"
                time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def processor_seconds(process: int) -> float:
    """Of a process and all below it."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    own = (int(fields[11]) + int(fields[12])) / TICKS
    return own + sum(processor_seconds(int(child)) for child in children)


def write_run(folder: Path, size: str) -> Path:
    """Artefacts of two stages, untrained, on a random base: what they cost is what counts."""
    from rlhf_forge.artefact import Manifest, write_manifest
    from rlhf_forge.backbone.adapter_files import write_adapter
    from rlhf_forge.backbone.backbone import Backbone
    from rlhf_forge.backbone.config import BackboneConfig, LoraSpec
    from rlhf_forge.backbone.loading import content_fingerprint, load_base
    from rlhf_forge.data.render import load_template

    write_work(SIZES[size], folder)
    base = folder / "base"
    model = load_base(BackboneConfig(str(base), "fp32"), torch.device("cpu"))
    backbone = Backbone(model, LoraSpec())
    template = load_template(str(base), "mistral")
    for stage in ("sft", "ppo"):
        artefact = folder / "run" / stage / "artefact"
        write_adapter(backbone.fresh_weights(seed=len(stage)), artefact, base=str(base))
        template.tokenizer.chat_template = template.text
        template.tokenizer.save_pretrained(artefact)
        manifest = Manifest(
            stage=stage,
            base=str(base),
            base_fingerprint=content_fingerprint(base),
            precision="fp32",
            device="cpu",
            tokenizer_hash=template.tokenizer_hash,
            template_hash=template.hash,
            chat_template=template.text,
            fingerprint=stage,
            golden=[],
            metrics={},
        )
        write_manifest(manifest, artefact)
    return folder / "run"


if __name__ == "__main__":
    main()
