"""A run of several policies from one SFT and one reward model, each held against SFT."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.artefact import read_manifest
from tests.tiny_project import QUIET, told

pytestmark = QUIET
ROOT = Path("lightning_logs/x")
PIPELINE = ["pipeline", ".", "--run", "x"]
DPO = """\
model:
  class_path: rlhf_forge.modules.dpo.DPOModule
  init_args:
    backbone: {path: base, precision: fp32, lora: {r: 2, alpha: 4}}
    total_steps: 2
    sampling: {max_new_tokens: 4}
data: {path: pairs.jsonl, max_length: 64, batch_size: 4, validation_fraction: 0.2}
run: x
"""


def judge(
    prompts: Any, responses: Sequence[str], records: Sequence[dict[str, Any]]
) -> dict[str, list[float]]:
    return {"score": [float(len(text)) for text in responses]}


def add_rloo() -> None:
    text = Path("ppo.yaml").read_text()
    text = text.replace("{minibatch_size: 4}", "{minibatch_size: 4, advantage: rloo}")
    text = text.replace("{max_new_tokens: 4}", "{max_new_tokens: 4, responses_per_prompt: 2}")
    Path("a_rloo.yaml").write_text(f"name: rloo\n{text}")


def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "summary.json").read_text())
    return found


def test_every_policy_is_trained_and_held_against_sft_and_ppo_stands_where_it_stood(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(PIPELINE) == 0
    alone = summary()
    assert alone["policies"] == {}
    add_rloo()
    Path("dpo.yaml").write_text(DPO)
    capsys.readouterr()
    assert main(PIPELINE) == 0
    out, err = capsys.readouterr()
    assert err.index("\ndpo\n") < err.index("\nrloo\n")
    assert err.count("finished before, not run again") == 3
    found = summary()
    assert list(found["models"]) == ["base", "sft", "ppo", "dpo", "rloo"]
    assert (found["gain"], found["win_rate"]) == (alone["gain"], alone["win_rate"])
    assert found["models"]["ppo"] == alone["models"]["ppo"]
    assert list(found["policies"]) == ["dpo", "rloo"]
    for name, row in found["policies"].items():
        assert row.keys() == {"gain", "win_rate", "seconds"}
        assert row["win_rate"].keys() == {f"{name}_vs_sft", "low", "high"}
        assert row["seconds"] == found["seconds"][name] > 0
    assert all(name in out for name in ("over SFT", "dpo", "rloo"))
    made = {s: read_manifest(ROOT / s / "artefact").fingerprint for s in ("sft", "reward")}
    assert read_manifest(ROOT / "rloo" / "artefact").parents == made
    assert read_manifest(ROOT / "dpo" / "artefact").parents == {"sft": made["sft"]}
    assert [path.name for path in (ROOT / "export").iterdir()] == ["ppo"]


def test_dpo_needs_no_reward_model_where_a_judge_is_named(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dpo.yaml").write_text(DPO)
    Path("ppo.yaml").unlink()
    Path("reward.yaml").unlink()
    assert main(PIPELINE) == 0
    assert "a stage reward or a judge in evaluate.yaml" in capsys.readouterr().err
    assert not (ROOT / "summary.json").exists()
    Path("evaluate.yaml").write_text(f"judge: {__name__}:judge\n")
    assert main(PIPELINE) == 0
    out, err = capsys.readouterr()
    assert "DPO over SFT: gain" in out
    assert f"next: python -m rlhf_forge chat {ROOT}/dpo/artefact" in err
    found = summary()
    assert list(found["models"]) == ["base", "sft", "dpo"]
    assert found["win_rate"].keys() == {"dpo_vs_sft", "low", "high"}
    assert found["reward"] == {}


def test_two_configs_of_one_name_are_refused_with_the_way_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_rloo()
    Path("b_rloo.yaml").write_text(Path("a_rloo.yaml").read_text())
    error, hint = told(PIPELINE, capsys)
    assert error == "b_rloo.yaml: a second config of stage rloo in ."
    assert "name: mine" in hint
