"""How cost grows: processor time and peak memory against the size of the work, on one CPU thread.

    python benchmarks/growth.py                     # all pieces that are not there yet
    python benchmarks/growth.py --pieces batch start --again

A piece is one size that grows while all others stay. Each point runs in a fork of its own: seconds
are its processor time, so that neighbours on the machine count little, and memory is its highest
above what it began with. Exponents are the slopes of straight lines through logarithms: 1 is
linear, 0 is flat. Writes benchmarks/results/growth.json after each piece, docs/growth.md and .svg.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from growth_work import SHARED, SIZES, WORK
from quickstart import commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
STARTS = {
    "import rlhf_forge": ["-c", "import rlhf_forge"],
    "python -m rlhf_forge --help": ["-m", "rlhf_forge", "--help"],
    "python -m rlhf_forge export --help": ["-m", "rlhf_forge", "export", "--help"],
}
MILLION = "a million pairs"
PIECES = (*SIZES, "start", MILLION)
# What is to be seen of each: the exponent, and where it is not 1 or 0 why.
WORDS = {
    "batch": "rows of an SFT step. Time is to be linear, and is but for what a step costs whatever "
    "its size; memory is to be flat, that of one micro-batch of 1,024 tokens, and from 16 rows on "
    "grows with the rows' own tokens only",
    "response": "tokens generated for 8 prompts of 32 tokens, and learnt from. Linear, with a part "
    "above it: each token looks at all before it, so attention is quadratic; of memory the base "
    "and the adapters' start are most, and do not grow",
    "pairs": "pairs of about 160 words of random letters, many tokens each, read, rendered, "
    "tokenised and held. Both are to be linear; what is above it is not explained yet: look again "
    "on a quiet machine, and with more pairs, as a process at its start has some memory to spare",
    "adapters": "roles on one base; each has its turn over the same 8 rows. Time is linear; memory "
    "is the base, which is there once, and a little for each",
    "vocabulary": "of the base, in an SFT step. Below linear, as layers do not know of it: the "
    "output embedding's products and the embeddings alone grow; logits are never all held",
}


def main(argv: list[str] | None = None) -> None:
    """Measure what is missing, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=list(PIECES))
    parser.add_argument("--again", action="store_true", help="also those that are there")
    parser.add_argument("--shrink", type=int, default=1, help="divide sizes by it: says nothing")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="of the large file")
    parser.add_argument("--out", type=Path, default=RESULTS / "growth.json")
    parser.add_argument("--docs", type=Path, default=DOCS)
    arguments = parser.parse_args(argv)
    found = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for piece in arguments.pieces:
        if piece in found and not arguments.again:
            continue
        load = os.getloadavg()[0]
        rows = measured(piece, arguments)
        found[piece] = {
            "rows": rows,
            "date": time.strftime("%Y-%m-%d"),
            "commit": commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "load": round(load, 1),
        }
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
        print(piece, rows, flush=True)
    (arguments.docs / "growth.md").write_text(page(found))
    (arguments.docs / "growth.svg").write_text(picture(found))


def measured(piece: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The points of a piece."""
    if piece == "start":
        return [started(name, words) for name, words in STARTS.items()]
    work, sizes = ("pairs", [arguments.pairs]) if piece == MILLION else (piece, SIZES[piece])
    for make in SHARED.get(work, ()):
        make()
    return [forked(WORK[work], max(1, size // arguments.shrink)) for size in sizes]


def forked(work: Callable[[int], Callable[[], object]], size: int) -> dict[str, Any]:
    """Processor seconds and peak memory of one size, in a process of its own."""
    context = multiprocessing.get_context("fork")
    told, telling = context.Pipe(duplex=False)
    child = context.Process(target=_point, args=(work, size, telling))
    child.start()
    telling.close()
    try:
        seconds, mib = told.recv()
    except EOFError:
        raise SystemExit(f"size {size}: the process that measures it died") from None
    finally:
        child.join()
    return {"size": size, "cpu_seconds": seconds, "peak_mib": mib}


def _point(work: Callable[[int], Callable[[], object]], size: int, telling: Any) -> None:
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # what the work writes goes with it
        step = work(size)
        started = time.process_time()
        step()
        seconds = time.process_time() - started
        telling.send((seconds, memory_mib("VmHWM") - before))


def memory_mib(name: str) -> float:
    """Of this process, as the system counts it."""
    status = Path("/proc/self/status").read_text()
    [kib] = re.findall(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kib) / 1024


def started(name: str, words: list[str]) -> dict[str, Any]:
    """Least processor seconds of three starts of a process."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"size": name, "cpu_seconds": min(spent)}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of the line through the logarithms, by least squares."""
    xs, ys = [math.log(size) for size in sizes], [math.log(max(cost, 1e-9)) for cost in costs]
    middle = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - middle[0]) * (y - middle[1]) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - middle[0]) ** 2 for x in xs)


def page(found: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = ["# How cost grows", "", *_introduction(found)]
    for piece in SIZES:
        if piece in found:
            lines += ["", f"## {piece.capitalize()}", "", f"{_sentence(WORDS[piece])}.", ""]
            lines += _table(found[piece]["rows"])
    if "start" in found:
        lines += ["", "## Start", "", "| what | processor seconds |", "|---|---|"]
        lines += [f"| `{r['size']}` | {r['cpu_seconds']:.2f} |" for r in found["start"]["rows"]]
    if MILLION not in found:
        lines += ["", f"Not measured yet: `--pieces '{MILLION}'`."]
    else:
        [row] = found[MILLION]["rows"]
        lines += [
            "",
            "## A large file",
            "",
            f"{row['size']:,} pairs of about 1 KB, read, rendered and tokenised as `fit` does at "
            f"its start: {row['cpu_seconds']:.0f} s of processor time, {row['peak_mib']:.0f} MiB.",
        ]
    return "\n".join([*lines, ""])


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _introduction(found: dict[str, Any]) -> list[str]:
    dates = sorted({piece["date"] for piece in found.values()})
    loads = sorted(piece["load"] for piece in found.values())
    machines = sorted({piece["machine"] for piece in found.values()})
    return [
        "`python benchmarks/growth.py`, one thread of a small model (width 128, 2 layers, LoRA of "
        f"rank 16, float32) on {', '.join(machines)}, {', '.join(dates)}; other jobs ran beside "
        f"(load {loads[0]:g} to {loads[-1]:g}), so seconds are of processor time, and exponents "
        "are to be believed more than seconds. They are slopes of logarithms: 1 is linear, 0 flat.",
        "",
        "![Processor time and memory against size](growth.svg)",
    ]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    sizes = [row["size"] for row in rows]
    lines = ["| size | processor seconds | peak MiB |", "|---|---|---|"]
    lines += [f"| {r['size']:,} | {r['cpu_seconds']:.3f} | {r['peak_mib']:.0f} |" for r in rows]
    slopes = [exponent(sizes, [row[key] for row in rows]) for key in ("cpu_seconds", "peak_mib")]
    # Where a constant part is large, the last doubling tells what the line through all does not.
    last = [
        exponent(sizes[-2:], [row[key] for row in rows[-2:]]) for key in ("cpu_seconds", "peak_mib")
    ]
    lines.append(f"| **exponent** | **{slopes[0]:.2f}** | **{slopes[1]:.2f}** |")
    return [*lines, f"| of the last step | {last[0]:.2f} | {last[1]:.2f} |"]


def picture(found: dict[str, Any]) -> str:
    """Time and memory by size, both as multiples of the smallest, doublings on both axes."""
    from rlhf_forge.pages.charts import Series, line_chart

    css = ROOT / "src" / "rlhf_forge" / "pages" / "templates" / "page.css"
    charts = []
    for key, title in (("cpu_seconds", "Processor time"), ("peak_mib", "Peak memory")):
        series = []
        for piece in SIZES:
            if piece in found:
                rows = found[piece]["rows"]
                xs, ys = (
                    [math.log2(max(row[name], 1e-9) / max(rows[0][name], 1e-9)) for row in rows]
                    for name in ("size", key)
                )
                series.append(Series(piece, xs, ys))
        words = {"x_label": "doublings of the size", "y_label": "doublings of the cost"}
        charts.append(_alone(str(line_chart(title, series, **words))))
    height = max(float(re.findall(r'viewBox="0 0 \S+ (\S+)"', chart)[0]) for chart in charts)
    placed = [
        chart.replace("<svg", f'<svg y="{at * height:.0f}" height="{height:.0f}"', 1)
        for at, chart in enumerate(charts)
    ]
    width = re.findall(r'viewBox="0 0 (\S+) ', charts[0])[0]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {2 * height:.0f}">'
        f"<style>{css.read_text()}</style>{''.join(placed)}</svg>\n"
    )


def _alone(figure: str) -> str:
    """The picture out of a page's figure."""
    return figure[figure.index("<svg") : figure.index("</svg>") + len("</svg>")]


if __name__ == "__main__":
    main()
