"""The fused 4-bit product of a decode step on a GPU: which tile is fastest, and against what.

    python benchmarks/nf4_product.py
    python benchmarks/nf4_product.py --rows 16

Mistral-7B's four shapes of layers, with LoRA of rank 16 and a residual; each tile against
bitsandbytes' product, which has neither, a bf16 product, and the time that the 4-bit weight's bytes
take at the copy bandwidth of the same run. The layers of a round do not fit into the L2 together.
Microseconds of a captured graph of one launch a layer: launching costs more than the smaller of
them take.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_base import copy_bandwidth, drawn, in_4bit
from rich.console import Console
from rich.table import Table

from rlhf_forge.backbone import nf4_kernel
from rlhf_forge.backbone.bitsandbytes_guard import import_bitsandbytes

DEVICE = torch.device("cuda", 0)
SHAPES = ((14336, 4096), (4096, 14336), (4096, 4096), (1024, 4096))
TILES = [
    {"outer_tile": outer, "inner_tile": inner, "num_stages": stages}
    for outer, inner, stages in itertools.product((16, 32, 64, 128), (64, 128, 256), (3, 5))
]
RANK = 16
HELD = 160e6  # bytes of weights in a round: three times the L2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    bandwidth = copy_bandwidth(DEVICE, mib=1024)
    found = [
        measured(shape, rows, bandwidth)
        for shape, rows in itertools.product(SHAPES, arguments.rows)
    ]
    if arguments.out:
        report = {"gpu": torch.cuda.get_device_name(), "date": time.strftime("%F"), "rows": found}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    show(found)


def measured(shape: tuple[int, int], rows: int, bandwidth: float) -> dict[str, Any]:
    """Microseconds of one product of ``rows`` with a layer of ``shape``, by every way."""
    outer, inner = shape
    generator = torch.Generator(DEVICE).manual_seed(0)
    count = max(2, int(HELD / (outer * inner / 2)))
    dense = [drawn(torch.Size(shape), DEVICE, generator) for _ in range(count)]
    layers: list[Any] = [in_4bit(weight.clone()) for weight in dense]
    x, narrow, up, residual = (
        torch.randn(size, device=DEVICE, dtype=torch.bfloat16)
        for size in ((rows, inner), (rows, RANK), (outer, RANK), (rows, outer))
    )
    out = torch.empty_like(residual)
    own = nf4_kernel._tile
    shared = torch.cuda.get_device_properties(DEVICE).shared_memory_per_multiprocessor
    default = own(max(16, min(64, rows)), outer, inner, shared=shared)
    by_tile = {}
    for tile in TILES:
        nf4_kernel._tile = lambda *_, tile=tile, **__: tile  # type: ignore[misc]
        try:
            by_tile[json.dumps(tile)] = microseconds(
                lambda layer: nf4_kernel.nf4_product(
                    x, layer, narrow=narrow, up=up, residual=residual, out=out
                ),
                layers,
            )
        except Exception as error:  # a tile that the card has no room for
            by_tile[json.dumps(tile)] = None
            print(tile, str(error).splitlines()[0][:80])
    nf4_kernel._tile = own
    stock = import_bitsandbytes().matmul_4bit
    return {
        "shape": list(shape),
        "rows": rows,
        "floor": outer * inner / 2 / bandwidth * 1e6,
        "bf16": microseconds(lambda weight: x @ weight.T, dense),
        "bitsandbytes": microseconds(
            lambda layer: stock(x, layer.weight.t(), quant_state=layer.weight.quant_state), layers
        ),
        "default": by_tile[json.dumps(default)],
        "tile": default,
        "tiles": by_tile,
    }


@torch.no_grad()
def microseconds(work: Callable[[Any], object], layers: list[Any]) -> float:
    """Of one call, of a captured round over all ``layers``."""
    for layer in layers:
        work(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for layer in layers:
            work(layer)
    graph.replay()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        graph.replay()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / 10 / len(layers) * 1e6


def show(found: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table("layer", "rows", "floor", "ours", "best", "of tile", "bitsandbytes", "bf16")
    for row in found:
        tiles = {tile: us for tile, us in row["tiles"].items() if us is not None}
        best = min(tiles, key=lambda tile: tiles[tile])
        numbers = [row["floor"], row["default"] or float("nan"), tiles[best]]
        table.add_row(
            "x".join(map(str, row["shape"])),
            str(row["rows"]),
            *(f"{number:.1f}" for number in numbers),
            " ".join(map(str, json.loads(best).values())),
            f"{row['bitsandbytes']:.1f}",
            f"{row['bf16']:.1f}",
        )
    Console(width=max(100, Console().width)).print(table)


if __name__ == "__main__":
    main()
