"""What a stage is called in its run: its own name, or that which its config gives it."""

from pathlib import Path

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.config_files import name_of
from rlhf_forge.parsed_stage import parsed_stage
from tests.tiny_project import QUIET, told

pytestmark = QUIET
PPO = ["--config", "ppo.yaml"]


def named(name: str, stage: str = "ppo") -> Path:
    """A second config of a stage, under a name."""
    path = Path(f"{name}.yaml")
    path.write_text(f"name: {name}\n{Path(f'{stage}.yaml').read_text()}")
    return path


def test_a_stage_is_called_as_it_is_unless_its_config_says_otherwise(project: Path) -> None:
    assert parsed_stage(PPO).folder == Path("lightning_logs/x/ppo")
    assert parsed_stage([*PPO, "--name", "rloo"]).folder == Path("lightning_logs/x/rloo")
    assert parsed_stage(["--config", str(named("grpo"))]).folder == Path("lightning_logs/x/grpo")
    assert [name_of(Path(f"{name}.yaml")) for name in ("ppo", "grpo")] == ["ppo", "grpo"]


def test_a_named_stage_runs_goes_on_and_is_used_in_its_own_folder(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("lightning_logs/x/ppo/artefact/forge.json").read_bytes()
    assert main(["fit", *PPO, "--name", "rloo"]) == 0
    folder = Path("lightning_logs/x/rloo")
    assert capsys.readouterr().err.splitlines()[-3:] == [
        f"artefact: {folder}/artefact",
        f"logs: {folder}",
        f"next: python -m rlhf_forge chat {folder}/artefact",
    ]
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert main(["fit", *PPO, "--name", "rloo", "--ckpt_path", "last"]) == 0
    assert "rloo: finished before, not run again" in capsys.readouterr().err
    assert main(["validate", *PPO, "--name", "rloo"]) == 0
    assert Path("lightning_logs/x/ppo/artefact/forge.json").read_bytes() == before


def test_the_name_of_a_stage_is_nothing_it_computes(project: Path) -> None:
    assert parsed_stage(PPO).fingerprint == parsed_stage([*PPO, "--name", "a"]).fingerprint


def test_the_next_command_is_that_of_the_config_without_a_name(project: Path) -> None:
    named("a")
    named("z")
    stage = parsed_stage(["--config", "reward.yaml"])
    assert stage.command_of("ppo") == "python -m rlhf_forge fit --config ppo.yaml --run x"


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "base", "export"])
def test_a_name_that_means_something_else_in_a_run_is_refused(
    name: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, hint = told(["fit", *PPO, "--name", name], capsys)
    assert error.startswith(f"name: {name} is what something else in a run is called")
    assert f"RUN/ppo-{name}" in hint


@pytest.mark.parametrize("name", ["../x", "a/b", "-a", "a b"])
def test_a_name_that_is_none_of_a_folder_is_refused(
    name: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, _ = told(["fit", *PPO, f"--name={name}"], capsys)
    assert error.startswith("name: must be a name of letters")
