"""What faults cost the server's other callers, in seconds.

    python benchmarks/serving_faults.py --run lightning_logs/quickstart
    python benchmarks/serving_faults.py --size 31M

Six callers leave in the middle of long answers, streamed and not: how long the next one waits, and
how long on an idle server. Ten times as many requests as there are places: when those that are
refused hear so. The worker is killed in the middle of answers: when its callers hear so, and when
answers are given again.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from serving import CHAT, RESULTS, served, write_run
from work import SIZES

LONG = 200
CAPACITY = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a run's folder")
    parser.add_argument("--size", choices=list(SIZES), help="a random Mistral in place of a run")
    parser.add_argument("--json", type=Path, default=RESULTS / "serving-faults.json")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        run = arguments.run or write_run(Path(folder), arguments.size)
        started = time.perf_counter()
        with served(run, "--slots", "4", "--queue", "4") as (port, process):
            loading = time.perf_counter() - started
            row = {
                "served": arguments.size or arguments.run.name,
                **asyncio.run(dropped(port)),
                **asyncio.run(burst(port)),
                **asyncio.run(killed(port, process)),
                "seconds_to_start": round(loading, 2),
                "threads": os.environ.get("OMP_NUM_THREADS"),
                "cores": os.cpu_count(),
                "load": round(load, 1),
                "date": time.strftime("%Y-%m-%d %H:%M"),
            }
    print(json.dumps(row))
    rows = json.loads(arguments.json.read_text()) if arguments.json.is_file() else []
    arguments.json.write_text(json.dumps([*rows, row], indent=1) + "\n")


async def dropped(port: int) -> dict[str, Any]:
    """Callers who leave."""
    await request(port, 1)
    idle = median([(await request(port, 1))[1] for _ in range(5)])
    for stream in (True, False) * 3:
        await leave(port, stream=stream)
    _, after = await request(port, 1)
    await until(lambda: number(port, "forge_running") == 0)
    return {
        "idle_s": round(idle, 3),
        "after_six_left_s": round(after, 3),
        "cancelled": number(port, "forge_cancelled_total"),
    }


async def burst(port: int) -> dict[str, Any]:
    """Many at once."""
    answers = await asyncio.gather(*(request(port, LONG) for _ in range(10 * CAPACITY)))
    refused = sorted(seconds for status, seconds in answers if status == 429)
    return {
        "burst": len(answers),
        "answered": sum(status == 200 for status, _ in answers),
        "refused": len(refused),
        "refused_p50_s": round(refused[len(refused) // 2], 3),
        "refused_max_s": round(refused[-1], 3),
    }


async def killed(port: int, process: int) -> dict[str, Any]:
    """A worker that dies."""
    asked = [asyncio.create_task(request(port, LONG, greedy=True)) for _ in range(CAPACITY)]
    await until(lambda: number(port, "forge_running") > 0)
    worker = max(below(process), key=resident)
    os.kill(worker, signal.SIGKILL)
    at = time.perf_counter()
    statuses = [status for status, _ in await asyncio.gather(*asked)]
    told = time.perf_counter() - at
    await until(lambda: number(port, "forge_ready") == 1)
    return {
        "killed_statuses": sorted(set(statuses)),
        "killed_all_told_s": round(told, 3),
        "killed_ready_again_s": round(time.perf_counter() - at, 3),
    }


async def request(port: int, length: int, *, greedy: bool = False) -> tuple[int, float]:
    """An answer that is not streamed: its status, and the seconds it took."""
    started = time.perf_counter()
    reader, writer = await sent(port, length, stream=False, greedy=greedy)
    status = int((await reader.readline()).split()[1])
    await reader.read()
    writer.close()
    return status, time.perf_counter() - started


async def leave(port: int, *, stream: bool) -> None:
    """Ask for a long answer, and go."""
    reader, writer = await sent(port, LONG, stream=stream)
    if stream:
        await reader.readline()
    else:
        await asyncio.sleep(0.2)
    writer.close()


async def sent(
    port: int, length: int, *, stream: bool, greedy: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request on its way."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = {
        "model": "base",
        "messages": [{"role": "user", "content": "Say all that you know of rivers."}],
        "max_tokens": length,
        "temperature": 0 if greedy else 1,
        "stream": stream,
    }
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    return reader, writer


async def until(condition: Callable[[], bool]) -> None:
    """Wait, looking often."""
    while not await asyncio.to_thread(condition):
        await asyncio.sleep(0.02)


def number(port: int, name: str) -> float:
    """Sum of a metric over its labels."""
    return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics(port), re.MULTILINE)))


def counted(port: int) -> dict[str, dict[str, int]]:
    """Requests by path and status, as the server counts them."""
    found: dict[str, dict[str, int]] = {}
    pattern = r'^forge_requests_total{path="(.*)",status="(\d+)"} (\S+)$'
    for path, status, count in re.findall(pattern, metrics(port), re.MULTILINE):
        found.setdefault(path, {})[status] = int(float(count))
    return found


def metrics(port: int) -> str:
    """All metrics, as Prometheus reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def below(process: int) -> list[int]:
    """All processes below one."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [pid for child in map(int, children) for pid in (child, *below(child))]


def resident(process: int) -> int:
    """Pages of memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1])


if __name__ == "__main__":
    main()
