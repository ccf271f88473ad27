"""benchmarks/gpu.py works at the first try: all of it runs on a CPU at toy sizes."""

import json
import sys
import time
import weakref
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_forge.backbone import frozen_linear
from tests.tiny_project import QUIET

pytestmark = QUIET
CPU = torch.device("cpu")
ASKED = ["G0", "G1", "G2", "G3", "G4", "G5", "G7", "G8"]
Row = dict[str, Any]


def answers(question: str, folder: Path, floors: dict[str, float] | None = None) -> list[Row]:
    """Rows of a question, measured in this process."""
    rows: list[Row] = []
    import_module("gpu").answer(
        question, folder, toy=True, ends=time.monotonic() + 1e6, tell=rows.append,
        floors=floors or {},
    )  # fmt: skip
    return rows


def faulty(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Questions are answered by such a script in place of gpu.py's own child."""
    gpu = import_module("gpu")
    real = gpu.subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        if "--child" not in command:
            return real(command, **options)
        question = command[command.index("--child") + 1]
        return real([sys.executable, "-c", script, question], **options)

    monkeypatch.setattr(gpu.subprocess, "Popen", popen)


def test_a_question_that_fails_is_a_row_and_the_next_one_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, out = import_module("gpu"), tmp_path / "rows.json"
    script = (
        "import json, sys, time\n"
        "row = {'what': 'one', 'value': 2.0, 'unit': 'GB/s', 'key': 'copy', 'raw': 2e9}\n"
        f"print({gpu.MARK!r} + json.dumps(row), flush=True)\n"
        "if sys.argv[1] == 'G1': sys.exit('no such kernel')\n"
        "if sys.argv[1] == 'G2': time.sleep(60)\n"
    )
    faulty(monkeypatch, script)
    monkeypatch.setattr(gpu, "BUDGETS", {"G1": 600, "G2": 2, "G3": 600})
    monkeypatch.setattr(gpu, "TOTAL", 602.0)
    gpu.main(["--toy", "--only", "G1", "G2", "G3", "--out", str(out)])
    told: dict[str, list[str]] = {"G1": [], "G2": [], "G3": []}
    for row in json.loads(out.read_text())["rows"]:
        told[row["question"]].append(row.get("error", "measured"))
    assert told["G1"] == ["measured", "exit 1: no such kernel"]
    assert told["G2"][-1].startswith("stopped after its ")
    assert told["G3"] == ["measured"]


def test_every_row_is_written_before_the_next_one_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, out = import_module("gpu"), tmp_path / "rows.json"
    seen: list[int] = []

    def measured(*_: Any) -> Any:
        for number in range(3):
            if out.is_file():
                seen.append(len(json.loads(out.read_text())["rows"]))
            yield {"what": str(number), "value": 1.0, "unit": "s"}

    monkeypatch.setattr(gpu, "measured", measured)
    gpu.main(["--only", "G0", "--out", str(out)])
    assert seen == [0, 1, 2]


def test_mistral_7b_has_its_real_size_and_the_floors_of_a_step_follow_from_it() -> None:
    base, rows = import_module("gpu_base"), import_module("gpu_rows")
    shape = base.MISTRAL_7B
    assert shape.linear_weights == 6_979_321_856
    assert shape.linear_weights + 2 * shape.vocab * shape.width == 7_247_757_312
    assert shape.kv_bytes == 131_072
    flops = rows.training_flops(shape, 1000, targets=0)
    adapters = 41_943_040
    assert flops == 1000 * (4 * shape.linear_weights + 6 * adapters)


def test_the_random_base_is_what_loading_gives_in_4_bit() -> None:
    base = import_module("gpu_base")
    model = base.random_base(base.TOY, CPU)
    assert not [name for name, p in model.named_parameters() if p.is_meta or p.requires_grad]
    assert not [name for name, b in model.named_buffers() if b.is_meta]
    linear = model.model.layers[0].mlp.up_proj
    assert linear.weight.dtype == torch.uint8
    assert linear.weight.quant_state.nested
    assert linear.weight.quant_state.dtype == model.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.isfinite().all()
    weight = frozen_linear.dense_weight(linear, torch.float32)
    assert weight.shape == (base.TOY.ffn, base.TOY.width)
    assert weight.std().item() == pytest.approx(base.SPREAD, rel=0.1)


def test_of_the_base_one_weight_at_a_time_is_there_in_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = import_module("gpu_base")
    drawn = base.drawn
    before: list[weakref.ref[torch.Tensor]] = []

    def noted(*arguments: Any) -> torch.Tensor:
        assert all(there() is None for there in before)
        weight: torch.Tensor = drawn(*arguments)
        if len(weight) != base.TOY.vocab:  # embeddings stay as they are
            before.append(weakref.ref(weight))
        return weight

    monkeypatch.setattr(base, "drawn", noted)
    base.random_base(base.TOY, CPU)
    assert len(before) == 7 * base.TOY.layers


def test_the_fused_step_that_a_gpu_takes_is_the_product_it_stands_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = import_module("gpu_base")
    weight = torch.randn(128, 64, dtype=torch.bfloat16) / 8
    linear, x = base.in_4bit(weight), torch.randn(3, 1, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        plain = frozen_linear.frozen_product(x, linear)
        monkeypatch.setattr(frozen_linear, "_is_decode_step", lambda _: True)
        fused = frozen_linear.frozen_product(x, linear)
    assert fused.shape == plain.shape == (3, 1, 128)
    assert (fused - plain).float().norm() <= 1e-2 * plain.float().norm()


def test_rollouts_are_measured_beside_those_of_transformers(tmp_path: Path) -> None:
    rows = answers("G3", tmp_path, {"copy": 1e9, "gemm": 1e12})
    assert [row["what"] for row in rows] == [
        "rollout, 4 rows",
        "transformers generate, 4 rows",
        "rollout, 1 rows",
    ]
    assert all(row["value"] > 0 and row["gap"] >= 1 for row in rows)


@pytest.mark.slow
def test_an_iteration_of_ppo_agrees_with_itself(tmp_path: Path) -> None:
    rows = {row["what"]: row for row in answers("G4", tmp_path, {"copy": 1e9, "gemm": 1e12})}
    assert all(rows[f"PPO iteration: {p}"]["value"] > 0 for p in ("generate", "score", "update"))
    assert rows["first minibatch: largest |ratio - 1|"]["value"] == 0
    assert rows["step 0: largest |log policy - log reference|"]["met"]
    assert rows["decode step against training forward"]["value"] < 0.2


@pytest.mark.slow
def test_the_whole_table_is_made_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, out = import_module("gpu"), tmp_path / "rows.json"
    # A machine that does much else must not cut a row.
    monkeypatch.setattr(gpu, "TOTAL", 1e5)
    monkeypatch.setattr(gpu, "BUDGETS", dict.fromkeys(ASKED, 1e4))
    gpu.main(["--toy", "--out", str(out)])
    report = json.loads(out.read_text())
    answered = {row["question"] for row in report["rows"]}
    assert sorted(answered) == sorted([*ASKED, "G6"])
    failed = [row for row in report["rows"] if "error" in row]
    assert [row["what"] for row in failed] == ["reward model, prompts shared"]
    assert report["toy"]
