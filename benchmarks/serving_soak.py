"""Mixed load with faults for minutes: whether memory grows, a slot sticks, or a count is off.

    python benchmarks/serving_soak.py --run lightning_logs/quickstart --minutes 10

Callers chat, complete lists of texts, score, send bad requests, vote, and leave in the middle of
answers, streamed and not; every half minute comes a burst of more requests than there are places;
once, early on, the worker is killed. Memory is that of all processes of the server together. Its
slope is taken by least squares over what follows the first 30 % of the time.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving import CHAT, RESULTS, served, write_run
from serving_faults import below, counted, leave, number, request, resident, until
from work import SIZES

TEXT, SCORE, FEEDBACK = "/v1/completions", "/v1/score", "/v1/feedback"
ASKED = (CHAT, TEXT, SCORE, FEEDBACK)
CALLERS, BURST = 6, 40
SECONDS_BETWEEN_BURSTS, SECONDS_BETWEEN_LOOKS = 30, 5
WARM_UP = 0.3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a run's folder")
    parser.add_argument("--size", choices=list(SIZES), help="a random Mistral in place of a run")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=Path, default=RESULTS / "serving-soak.json")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        run = arguments.run or write_run(Path(folder), arguments.size)
        votes = str(Path(folder) / "feedback.sqlite")
        with served(run, "--slots", "4", "--queue", "12", "--feedback", votes) as (port, process):
            soak = Soak(port, process, arguments.minutes * 60)
            row = asyncio.run(soak.run())
    row = {"served": arguments.size or arguments.run.name, "minutes": arguments.minutes, **row}
    row |= {"threads": os.environ.get("OMP_NUM_THREADS"), "cores": os.cpu_count()}
    row |= {"load": round(load, 1), "date": time.strftime("%Y-%m-%d %H:%M")}
    print(json.dumps(row))
    rows = json.loads(arguments.json.read_text()) if arguments.json.is_file() else []
    arguments.json.write_text(json.dumps([*rows, row], indent=1) + "\n")


class Soak:
    """One server under load until its time is up."""

    def __init__(self, port: int, process: int, seconds: float) -> None:
        self.port, self.process, self.seconds = port, process, seconds
        self.rng = random.Random(0)
        self.statuses: dict[str, Counter[int]] = {}
        self.left = 0
        self.memory: list[tuple[float, float]] = []

    async def run(self) -> dict[str, Any]:
        """All of it, and what it comes to."""
        self.started = time.monotonic()
        await asyncio.gather(*(self._call() for _ in range(CALLERS)), self._burst(), self._look())
        await until(lambda: number(self.port, "forge_running") == 0)
        late = [(t, m) for t, m in self.memory if t >= WARM_UP * self.seconds]
        answered = sum(sum(found.values()) for found in self.statuses.values())
        counts = counted(self.port)
        return {
            "answered": answered,
            "left": self.left,
            "statuses": {
                kind: dict(sorted(found.items())) for kind, found in self.statuses.items()
            },
            "counted_beyond_ours": sum(sum(counts[path].values()) for path in ASKED)
            - answered
            - self.left,
            "stuck": int(
                number(self.port, "forge_waiting") + number(self.port, "forge_cache_tokens")
            ),
            "deaths": int(number(self.port, "forge_worker_deaths_total")),
            "mib_at_first": round(late[0][1]),
            "mib_at_last": round(late[-1][1]),
            "mib_per_minute": round(60 * slope(late), 2),
        }

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    async def _call(self) -> None:
        kinds = [self._chat, self._text, self._score, self._bad, self._vote, self._leave]
        while self.passed < self.seconds:
            await self.rng.choices(kinds, weights=(6, 2, 2, 1, 2, 1))[0]()

    async def _chat(self) -> None:
        status, _ = await request(self.port, self.rng.choice((1, 8, 40)))
        self._count("chat", status)

    async def _text(self) -> None:
        await self._post(
            "text", TEXT, {"model": "base", "prompt": ["Snow", "Ice"], "max_tokens": 8}
        )

    async def _score(self) -> None:
        await self._post("score", SCORE, {"prompt": "Is snow white?", "response": "It is."})

    async def _bad(self) -> None:
        await self._post("bad", CHAT, {"model": self.rng.choice(("base", "none")), "messages": []})

    async def _vote(self) -> None:
        side = {"text": "It is.", "model": "base", "finish_reason": "stop"}
        turns = [{"role": "user", "content": f"What is {self.rng.random()}?"}]
        body = {"kind": "comparison", "messages": turns, "a": side, "b": side, "choice": "tie"}
        await self._post("vote", FEEDBACK, body)

    async def _leave(self) -> None:
        await leave(self.port, stream=self.rng.random() < 0.5)
        self.left += 1

    async def _burst(self) -> None:
        await asyncio.sleep(WARM_UP / 2 * self.seconds)
        os.kill(max(below(self.process), key=resident), signal.SIGKILL)
        while self.passed + SECONDS_BETWEEN_BURSTS < self.seconds:
            await asyncio.sleep(SECONDS_BETWEEN_BURSTS)
            for status, _ in await asyncio.gather(*(request(self.port, 40) for _ in range(BURST))):
                self._count("burst", status)

    async def _look(self) -> None:
        while self.passed < self.seconds:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            pages = sum(resident(pid) for pid in [self.process, *below(self.process)])
            self.memory.append((self.passed, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))

    async def _post(self, kind: str, path: str, body: dict[str, Any]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        self._count(kind, int((await reader.readline()).split()[1]))
        await reader.read()
        writer.close()

    def _count(self, kind: str, status: int) -> None:
        self.statuses.setdefault(kind, Counter())[status] += 1


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line of least squares."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return over / sum((x - mean_x) ** 2 for x, _ in points)


if __name__ == "__main__":
    main()
