"""``env``, ``configs``, and what all commands share: quick help without torch."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_forge.commands.configs import configs
from rlhf_forge.commands.env import env

COMMANDS = ("serve", "chat", "export", "env", "configs")
NO_TORCH = """
import contextlib, sys
from rlhf_forge.__main__ import main
for word in {words}:
    with contextlib.suppress(SystemExit):
        main([word, "--help"])
heavy = {{"torch", "transformers", "peft", "litserve"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""


def test_env_names_versions_and_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert env() == 0
    lines = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    rows = {name: value.strip() for name, value in lines}
    assert rows["python"] == platform.python_version()
    for name in ("torch", "transformers", "peft", "bitsandbytes", "lightning", "litserve"):
        assert rows[name][0].isdigit(), name
    assert rows["device"].startswith(("cpu", "cuda"))
    assert "pytest" not in rows


def test_configs_names_every_preset_with_its_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert configs() == 0
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert {"quickstart/sft.yaml", "quickstart/reward.yaml", "quickstart/ppo.yaml"} <= set(rows)
    assert not any(purpose.startswith("#") for purpose in rows.values())


def test_configs_of_the_project_hide_the_shipped_ones_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs" / "quickstart").mkdir(parents=True)
    (tmp_path / "configs" / "quickstart" / "sft.yaml").write_text("# Mine.\nmodel: x\n")
    monkeypatch.chdir(tmp_path)
    configs()
    rows = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    assert ["quickstart/sft.yaml", "Mine."] in rows
    assert "quickstart/ppo.yaml" in [row[0] for row in rows]


def test_on_a_terminal_configs_stays_within_its_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configs()
    whole = capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    configs()
    wrapped = capsys.readouterr().out
    assert max(map(len, wrapped.splitlines())) <= 80
    assert wrapped.split() == whole.split()


def test_help_imports_nothing_heavy() -> None:
    code = NO_TORCH.format(words=COMMANDS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "PATHS [PATHS ...]" in done.stdout
    assert "--max_new_tokens" in done.stdout
    assert "--merge" in done.stdout


def test_a_misspelt_option_is_told_in_one_line_with_the_nearest() -> None:
    command = [sys.executable, "-m", "rlhf_forge", "serve", "a", "--prot", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 2
    assert "did you mean port?" in done.stderr
