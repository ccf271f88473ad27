import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.artefact import read_manifest
from tests.tiny_project import PAIRS, QUIET, STAGES, told, write_pairs

pytestmark = QUIET
ROOT = Path("lightning_logs/x")
PIPELINE = ["pipeline", ".", "--run", "x"]
MODEL = {"gold", "gold_se", "accuracy", "accuracy_greedy", "kl", "length", "eos", "n"}


def artefacts() -> dict[str, int]:
    return {
        stage: (ROOT / stage / "artefact" / "forge.json").stat().st_mtime_ns for stage in STAGES
    }


def summary() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "summary.json").read_text())
    return found


def test_all_stages_run_in_their_order_and_the_summary_says_what_came_of_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PIPELINE, "--seed", "3", "--data_seed", "4"]) == 0
    out, err = capsys.readouterr()
    places = [err.index(f"\n{stage}\ndata: ") for stage in STAGES]
    assert places == sorted(places)
    assert err.count("held out") == len(STAGES), "the evaluation prints the data once more"
    assert "next: python -m rlhf_forge fit" not in err
    assert f"next: python -m rlhf_forge chat {ROOT}/ppo/artefact" in err
    assert "PPO over SFT" in out
    found = summary()
    assert (found["seed"], found["data_seed"]) == (3, 4)
    assert found["models"].keys() == {"base", "sft", "ppo"}
    assert all(row.keys() == MODEL for row in found["models"].values())
    assert found["gain"].keys() == {"gold", "se"}
    assert found["win_rate"].keys() == {"ppo_vs_sft", "low", "high"}
    assert found["reward"]["mixed"].keys() == {"accuracy", "low", "high", "ceiling", "n"}
    assert found["seconds"].keys() == {"sft", "reward", "ppo", "evaluate", "export"}
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert found["peak_rss_mib"] > 100
    assert found["judge"] is None
    responses = [json.loads(line) for line in (ROOT / "responses.jsonl").read_text().splitlines()]
    assert len(responses) == found["models"]["ppo"]["n"]
    assert f"python -m rlhf_forge report {ROOT}\n" in err
    parents = read_manifest(ROOT / "ppo" / "artefact").parents
    made = {s: read_manifest(ROOT / s / "artefact").fingerprint for s in ("sft", "reward")}
    assert parents == made


def test_a_finished_stage_is_not_run_again(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ROOT / "sft" / "seconds.json").write_text('{"seconds": 12.5}')
    before = artefacts()
    assert main(PIPELINE) == 0
    assert artefacts() == before
    assert capsys.readouterr().err.count("finished before, not run again") == len(STAGES)
    assert summary()["seconds"]["sft"] == 12.5


def test_the_ppo_adapter_is_exported_for_stock_peft_and_measured(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftConfig

    out = ROOT / "export" / "ppo"
    assert main(PIPELINE) == 0
    assert float(capsys.readouterr().err.partition("log-prob difference ")[2].split()[0]) < 1e-4
    weights = (ROOT / "ppo" / "artefact" / "adapter_model.safetensors").read_bytes()
    assert (out / "adapter_model.safetensors").read_bytes() == weights
    assert Path(str(PeftConfig.from_pretrained(str(out)).base_model_name_or_path)).is_dir()


def test_a_rerun_puts_a_whole_new_export_in_the_place_of_the_old_one(trained: Path) -> None:
    out = ROOT / "export" / "ppo"
    out.mkdir(parents=True)
    (out / "of_an_earlier_run").write_text("")
    assert main(PIPELINE) == 0
    assert [path.name for path in out.parent.iterdir()] == ["ppo"]
    assert not (out / "of_an_earlier_run").exists()
    assert (out / "adapter_model.safetensors").is_file()


def test_an_export_that_other_tools_would_misread_is_a_finding(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf_forge.commands import export

    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    assert main(PIPELINE) == 1
    assert "another tool would not see the trained model" in capsys.readouterr().err
    assert "export" in summary()["seconds"]


def change_the_data(project: Path) -> list[str]:
    write_pairs(project / "pairs.jsonl", PAIRS[:-2])
    return PIPELINE


def change_the_config(project: Path) -> list[str]:
    path = project / "ppo.yaml"
    path.write_text(path.read_text().replace("total_iterations: 2", "total_iterations: 1"))
    return PIPELINE


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda _: [*PIPELINE, "--seed", "1"], set(STAGES)),
        (lambda _: [*PIPELINE, "--data_seed", "1"], set(STAGES)),
        (lambda _: [*PIPELINE, "--precision", "bf16"], set(STAGES)),
        (change_the_data, set(STAGES)),
        (change_the_config, {"ppo"}),
    ],
)
def test_what_changed_runs_again_into_a_fresh_folder_and_the_old_one_is_kept(
    change: Any, again: set[str], trained: Path
) -> None:
    before = artefacts()
    assert main(change(trained)) == 0
    after = artefacts()
    assert {stage for stage in STAGES if after[stage] != before[stage]} == again
    for stage in again:
        kept = ROOT / f"{stage}.1" / "artefact" / "forge.json"
        assert kept.stat().st_mtime_ns == before[stage]


def test_a_stage_that_was_stopped_goes_on_from_its_checkpoint(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlhf_forge.callbacks.checkpoints import IterationCheckpoint

    class KilledError(Exception):
        pass

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(IterationCheckpoint, "on_train_end", die)
        text = (project / "sft.yaml").read_text()
        (project / "sft.yaml").write_text(f"{text}checkpoint_every: 1\n")
        with pytest.raises(KilledError):
            main(PIPELINE)
    assert main(PIPELINE) == 0
    assert f"sft: goes on from {ROOT}/sft/checkpoints/last.ckpt" in capsys.readouterr().err
    assert not (ROOT / "sft.1").exists()


def test_a_run_that_starts_from_the_bare_base_needs_no_sft_stage(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "sft.yaml").unlink()
    for stage in ("reward", "ppo"):
        text = (project / f"{stage}.yaml").read_text()
        more = "    reference: base\n" + "    reference_likelihood: true\n" * (stage == "reward")
        (project / f"{stage}.yaml").write_text(text.replace("data:", f"{more}data:"))
    assert main(PIPELINE) == 0
    assert "PPO over the base" in capsys.readouterr().out
    found = summary()
    assert found["models"].keys() == {"base", "ppo"}
    assert found["models"]["base"]["kl"] == 0.0
    assert found["win_rate"].keys() == {"ppo_vs_base", "low", "high"}
    reward, ppo = (read_manifest(ROOT / stage / "artefact") for stage in ("reward", "ppo"))
    assert reward.parents == {}
    assert reward.reward_std != 1.0
    assert ppo.parents == {"reward": reward.fingerprint}
    assert not (ROOT / "sft").exists()
    # An SFT stage that is run now changes nothing of what these depend on.
    (ROOT / "sft" / "artefact").mkdir(parents=True)
    (ROOT / "sft" / "artefact" / "forge.json").write_text('{"fingerprint": "new"}')
    assert main(PIPELINE) == 0
    assert capsys.readouterr().err.count("finished before, not run again") == 2


def test_without_a_policy_nothing_is_evaluated(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "ppo.yaml").unlink()
    assert main(PIPELINE) == 0
    assert "no evaluation, no export: they need a stage ppo or dpo" in capsys.readouterr().err
    assert not (ROOT / "summary.json").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "error"),
    [
        ("ppo.yaml", "pairs.jsonl", "nowhere.jsonl", "data.path: no such file: nowhere.jsonl"),
        ("ppo.yaml", "minibatch_size: 4", "minibatch_size: 0", "minibatch_size must be 1 or more"),
        ("ppo.yaml", "max_new_tokens", "max_new_tokns", "rollout.max_new_tokns: no such key"),
        ("ppo.yaml", "max_length: 64", "max_length: 126", "data.max_length: must be at most 124"),
        ("ppo.yaml", "fraction: 0.2", "fraction: 0", "data.validation_fraction: 0 for stage ppo"),
        ("evaluate.yaml", "", "nmber: 3", "evaluate.nmber: no such key"),
        ("evaluate.yaml", "", "number: 0", "evaluate.number must be 1 or more, got 0"),
        ("evaluate.yaml", "", "judge: nowhere:score", "no function nowhere:score"),
        ("evaluate.yaml", "", "judge: [", "evaluate.yaml:1:9: not YAML"),
    ],
)
def test_a_mistake_in_the_last_stage_is_found_before_the_first_one_runs(
    name: str,
    old: str,
    new: str,
    error: str,
    project: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = project / name
    path.write_text(path.read_text().replace(old, new) if old else new)
    assert error in told(PIPELINE, capsys)[0]
    assert not ROOT.exists()


def test_data_that_begins_with_a_broken_line_is_found_before_the_first_one_runs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "broken.jsonl").write_text("{\n" + (project / "pairs.jsonl").read_text())
    path = project / "ppo.yaml"
    path.write_text(path.read_text().replace("pairs.jsonl", "broken.jsonl"))
    assert told(PIPELINE, capsys)[0].startswith("broken.jsonl:1: broken JSON")
    assert not ROOT.exists()


def test_mistakes_in_the_folder_are_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(["pipeline", "nowhere"], capsys)[0] == "pipeline: no such folder: nowhere"
    (project / "empty").mkdir()
    assert told(["pipeline", "empty"], capsys)[0] == "pipeline: no stage config in empty"
    assert told([*PIPELINE, "--sed", "3"], capsys) == ("sed: no such key", "did you mean seed?")
    (project / "two.yaml").write_text((project / "sft.yaml").read_text())
    assert "two.yaml: a second config of stage sft" in told(PIPELINE, capsys)[0]
    (project / "two.yaml").write_text("model: {class_path: nowhere.Module}\n")
    assert told(PIPELINE, capsys)[0] == "model.class_path: no such class: nowhere.Module"
    (project / "two.yaml").write_text("model: [\n")
    assert told(PIPELINE, capsys)[0].startswith("two.yaml:2:1: not YAML")
