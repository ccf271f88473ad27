"""benchmarks/growth.py: exponents, points in processes of their own, pieces that are kept."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from tests.tiny_project import QUIET

pytestmark = QUIET


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_is_the_power(power: float) -> None:
    sizes = [8, 16, 64, 512]
    costs = [3 * size**power for size in sizes]
    assert import_module("growth").exponent(sizes, costs) == pytest.approx(power)


def test_a_point_holds_the_memory_that_it_took_and_none_of_the_one_before() -> None:
    growth = import_module("growth")
    large, small = (
        growth.forked(lambda size: lambda: bytearray(b"x" * (size * 2**20)), mib)["peak_mib"]
        for mib in (200, 20)
    )
    assert large > 200
    assert small < 100


def test_pieces_that_are_there_are_kept_and_the_page_tells_all(tmp_path: Path) -> None:
    growth = import_module("growth")
    out = tmp_path / "growth.json"
    rows = [{"size": n, "cpu_seconds": 0.1 * n, "peak_mib": 50.0} for n in (1, 2, 4)]
    made = {
        "rows": rows,
        "date": "2026-01-02",
        "commit": "abc",
        "machine": "x, 2 cores",
        "load": 1.5,
    }
    out.write_text(json.dumps({"adapters": made}))
    words = ["--pieces", "batch", "adapters", "--shrink", "8", "--out", str(out)]
    growth.main([*words, "--docs", str(tmp_path)])
    found = json.loads(out.read_text())
    assert found["adapters"] == made
    assert [row["size"] for row in found["batch"]["rows"]] == [1, 2, 4, 8, 16]
    page = (tmp_path / "growth.md").read_text()
    assert "| **exponent** | **1.00** | **0.00** |" in page
    assert (tmp_path / "growth.svg").read_text().startswith("<svg xmlns=")


@pytest.mark.slow
def test_every_piece_runs(tmp_path: Path) -> None:
    growth, out = import_module("growth"), tmp_path / "growth.json"
    growth.main(["--shrink", "8", "--pairs", "400", "--out", str(out), "--docs", str(tmp_path)])
    assert list(json.loads(out.read_text())) == list(growth.PIECES)
