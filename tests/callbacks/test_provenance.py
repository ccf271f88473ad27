import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.callbacks import provenance
from tests.tiny_project import PAIRS, QUIET, write_pairs

pytestmark = QUIET


def fitted(capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main(["fit", "--config", "sft.yaml", *more]) == 0
    found: dict[str, Any] = json.loads(Path("lightning_logs/x/sft/provenance.json").read_text())
    return found


def test_a_stage_says_what_it_was_trained_on_and_with(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(project / "pairs.jsonl", [*PAIRS, {"prompt": "What?"}])
    found = fitted(capsys, "--data.bad_records", "skip")
    data = found["data"]
    assert f"data: {data['train']} to train on, {data['held_out']} held out" in (
        capsys.readouterr().err
    )
    assert (data["path"], data["records"]) == ("pairs.jsonl", 41)
    assert data["train"] + data["held_out"] + sum(data["skipped"].values()) == 41
    assert list(data["skipped"].values()) == [1]
    assert found["versions"]["torch"] == version("torch")


def test_the_fingerprint_of_the_data_is_that_of_what_is_trained_on(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prints = []
    for rows in (PAIRS, PAIRS[::-1], PAIRS[:20]):
        write_pairs(project / "pairs.jsonl", rows)
        prints.append(fitted(capsys)["data"]["fingerprint"])
    assert len(set(prints)) == 3


def test_without_a_repository_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "SOURCE", tmp_path)
    assert provenance._commit() is None
