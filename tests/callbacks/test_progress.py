import re
from pathlib import Path

import pytest

from rlhf_forge.__main__ import main
from tests.tiny_project import QUIET

pytestmark = QUIET
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.mark.parametrize(
    ("stage", "shown"),
    [
        ("sft", "loss: * val: * tokens/s: *"),
        ("reward", "accuracy: * val: * tokens/s: *"),
        ("ppo", "score: * kl: * tokens/s: *"),
    ],
)
def test_on_80_columns_the_bar_is_one_line_with_time_metrics_and_speed(
    stage: str,
    shown: str,
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["fit", "--config", f"{stage}.yaml"]) == 0
    lines = CONTROL.sub("", capsys.readouterr().err).replace("\r", "\n").splitlines()
    bars = [line.split() for line in lines if "━" in line]
    assert max(len(line) for line in lines if "━" in line) <= 80
    name, _, numbers, _, *metrics = [bar for bar in bars if bar[0] == stage][-1]
    assert (name, numbers) == (stage, "2/2")
    assert re.sub(r"-?\d[\d.]*", "*", " ".join(metrics)) == shown
    assert {bar[0] for bar in bars} <= {stage, "val"}
