"""Whether a greedy answer is the same alone and in a batch mixed with other adapters.

    python benchmarks/serving_greedy.py --run lightning_logs/quickstart --precision fp32 bf16 nf4

Each prompt is asked of each model by one caller, then by 16 who take turns over the models. In
float32 no answer may change. In bf16 and NF4 the sums of a batch of another size round otherwise,
and where two tokens are nearly as likely the other one may win: of each answer that changed, how
far apart the two best logits were where it first did.
"""

import argparse
import asyncio
import json
import os
import random
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving import CHAT, RESULTS, WORDS, served, write_run
from work import SIZES

NEAR = 0.05


def main() -> None:
    """Ask, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a run's folder")
    parser.add_argument("--size", choices=list(SIZES), help="a random Mistral in place of a run")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16", "nf4"])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--json", type=Path, default=RESULTS / "serving-greedy.json")
    arguments = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        run = arguments.run or write_run(Path(folder), arguments.size)
        for precision in arguments.precision:
            with served(run, "--precision", precision) as (port, _):
                found = compared(port, arguments)
            row = {"served": arguments.size or arguments.run.name, "precision": precision, **found}
            rows.append(row | {"date": time.strftime("%Y-%m-%d %H:%M")})
            print(json.dumps(rows[-1]), flush=True)
    before = json.loads(arguments.json.read_text()) if arguments.json.is_file() else []
    arguments.json.write_text(json.dumps([*before, *rows], indent=1) + "\n")


def compared(port: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Alone against together."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as answer:
        names = [model["id"] for model in json.load(answer)["data"] if model["id"] != "reward"]
    rng = random.Random(0)
    prompts = [" ".join(rng.choices(WORDS, k=8)) for _ in range(arguments.prompts)]
    bodies = [
        {
            "model": name,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": arguments.max_tokens,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 2,
        }
        for prompt in prompts
        for name in names
    ]
    alone = asyncio.run(answers(port, bodies, 1))
    together = asyncio.run(answers(port, bodies, arguments.callers))
    margins = [m for pair in zip(alone, together, strict=True) if (m := margin(*pair)) is not None]
    return {
        "models": names,
        "answers": len(alone),
        "tokens": sum(map(len, alone)),
        "changed": len(margins),
        "share": round(len(margins) / len(alone), 4),
        "largest_margin": round(max(margins, default=0.0), 4),
        "beyond": sum(found > NEAR for found in margins),
        "callers": arguments.callers,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def margin(alone: list[dict[str, Any]], together: list[dict[str, Any]]) -> float | None:
    """How far apart the two best logits were where two answers part; None if they never do."""
    if [token["bytes"] for token in alone] == [token["bytes"] for token in together]:
        return None
    at = next(
        (
            n
            for n, (a, b) in enumerate(zip(alone, together, strict=False))
            if a["bytes"] != b["bytes"]
        ),
        min(len(alone), len(together)),
    )
    longer = max(alone, together, key=len)
    best, second = (likely["logprob"] for likely in longer[at]["top_logprobs"])
    return abs(best - second)


async def answers(
    port: int, bodies: list[dict[str, Any]], count: int
) -> list[list[dict[str, Any]]]:
    """Each answer's tokens with the two likeliest, asked by ``count`` callers."""
    found: list[list[dict[str, Any]]] = [[] for _ in bodies]
    numbers = iter(range(len(bodies)))

    async def caller() -> None:
        for number in numbers:
            found[number] = await answer_of(port, bodies[number])

    await asyncio.gather(*(caller() for _ in range(count)))
    return found


async def answer_of(port: int, body: dict[str, Any]) -> list[dict[str, Any]]:
    """One answer, whole."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    status, _, told = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert b" 200 " in status.partition(b"\r\n")[0], told
    tokens: list[dict[str, Any]] = json.loads(told)["choices"][0]["logprobs"]["content"]
    return tokens


if __name__ == "__main__":
    main()
