import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_forge.__main__ import main
from tests.reporting.written import write_run
from tests.tiny_project import QUIET, told

pytestmark = QUIET
RUN = "lightning_logs/mine"
CODE = f"""
import sys
from rlhf_forge.__main__ import main
assert main(["report", "{RUN}"]) == 0
heavy = {{"torch", "lightning", "transformers", "tensorflow"}} & set(sys.modules)
sys.exit(", ".join(sorted(heavy)) or 0)
"""


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_run(Path(RUN))


def test_a_report_is_a_page_with_its_numbers_beside_it(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", RUN]) == 0
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == ["doubtful", "doubtful", "good"]
    assert err == f"report: {RUN}/report.html\nnumbers: {RUN}/report.json\n"
    found = json.loads((written / "report.json").read_text())
    assert [look["text"] for look in found["looks"]][:3] == [
        line.partition(": ")[2] for line in out.splitlines()
    ]
    assert "<h1>Run mine</h1>" in (written / "report.html").read_text()


def test_the_page_may_go_elsewhere(written: Path) -> None:
    assert main(["report", "mine", "--out", "pages/first.html"]) == 0
    assert Path("pages/first.html").is_file()
    assert json.loads(Path("pages/first.json").read_text())["run"] == RUN
    assert not (written / "report.html").exists()


def test_mistakes_are_one_line(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(["report", "mien"], capsys) == (
        "report: no such run: mien",
        "did you mean mine?",
    )
    assert told(["report", RUN, "--out", "page.pdf"], capsys) == (
        "--out: page.pdf: must end in .html",
        "--out page.html",
    )
    Path("empty").mkdir()
    assert told(["report", "empty"], capsys)[0] == "report: empty is no run: no stage in it"


def test_a_report_is_made_without_the_libraries_that_train(written: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_stages_really_leave_is_read(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "x"]) == 0
    found = json.loads(Path("lightning_logs/x/report.json").read_text())
    stages = {stage["name"]: stage for stage in found["stages"]}
    assert list(stages) == ["sft", "reward", "ppo"]
    for name, stage in stages.items():
        assert stage["artefact"]["steps"] == stage["artefact"]["planned_steps"] == 2
        data = stage["provenance"]["data"]
        assert data["train"] + data["held_out"] == data["records"] == 40
        assert stage["config"]["run"] == "x"
        assert stage["logged"]["curves"], name
    assert len(stages["ppo"]["logged"]["curves"]["objective/kl"]["values"]) == 2
    assert stages["reward"]["card"]["n"] == stages["reward"]["provenance"]["data"]["held_out"]
    assert found["samples"]
    assert {one["what"] for one in found["missing"]} >= {"x/summary.json", "x/responses.jsonl"}
