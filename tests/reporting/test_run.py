import json
import shutil
from pathlib import Path

import pytest

from rlhf_forge.errors import UserError
from rlhf_forge.reporting.run import Run, read_run
from tests.reporting.written import curves_of, write_artefact, write_events, write_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "mine")


def missing(run: Run) -> dict[str, str]:
    return {one.what: one.so for one in run.missing}


def test_a_whole_run_misses_nothing(folder: Path) -> None:
    run = read_run(str(folder))
    assert [(stage.name, stage.kind) for stage in run.stages] == [
        ("sft", "sft"),
        ("reward", "reward"),
        ("ppo", "ppo"),
    ]
    assert run.missing == []
    assert run.policy is not None
    assert run.policy.name == "ppo"


def test_a_run_may_be_named_as_it_is_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    Path("lightning_logs").mkdir()
    folder.rename("lightning_logs/mine")
    assert read_run("mine").folder == Path("lightning_logs/mine")
    with pytest.raises(UserError, match="no such run: mien") as told:
        read_run("mien")
    assert told.value.hint == "did you mean mine?"


def test_a_folder_without_a_stage_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "sft").mkdir()
    with pytest.raises(UserError, match="no stage in it"):
        read_run(str(tmp_path))


def test_what_was_set_aside_or_exported_is_no_stage(folder: Path) -> None:
    shutil.copytree(folder / "sft", folder / "sft.1")
    shutil.copytree(folder / "ppo", folder / "export" / "ppo")
    assert [stage.name for stage in read_run(str(folder)).stages] == ["sft", "reward", "ppo"]


def test_stages_with_names_of_their_own_come_behind_that_of_their_kind(folder: Path) -> None:
    for name in ("grpo", "a.1"):
        write_events(folder / name, curves_of("ppo"))
        write_artefact(folder / name, "ppo")
    run = read_run(str(folder))
    assert [stage.name for stage in run.stages] == ["sft", "reward", "ppo", "a.1", "grpo"]
    assert run.policy is not None
    assert run.policy.name == "ppo"


@pytest.mark.parametrize(
    "name",
    [
        "summary.json",
        "responses.jsonl",
        "sft/config.yaml",
        "sft/provenance.json",
        "sft/artefact",
        "reward/artefact/card.json",
        "ppo/watch.jsonl",
        "ppo/samples.jsonl",
    ],
)
def test_what_is_not_there_is_named(name: str, folder: Path) -> None:
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    [what] = missing(read_run(str(folder)))
    assert what.endswith(name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("responses.jsonl", "{\n"),
        ("ppo/watch.jsonl", "nonsense\n"),
        ("sft/config.yaml", "a: ["),
        ("sft/provenance.json", "\udcff"),
        ("sft/artefact/forge.json", '{"format": 99}'),
        ("reward/artefact/card.json", '{"format": 99}'),
    ],
)
def test_what_is_broken_is_named_and_the_rest_is_read(
    name: str, content: str, folder: Path
) -> None:
    (folder / name).write_text(content, errors="surrogateescape")
    run = read_run(str(folder))
    [what] = missing(run)
    assert name.startswith(what) or what.endswith(name)
    assert len(run.stages) == 3


def test_a_line_that_a_kill_cut_is_no_line(folder: Path) -> None:
    with (folder / "ppo" / "watch.jsonl").open("a") as file:
        file.write('{"iteration": 16, "sc')
    [stage] = read_run(str(folder)).of_kind("ppo")
    assert stage.watch[-1]["iteration"] == 14


def test_stages_that_are_not_there_are_named(folder: Path) -> None:
    for name in ("reward", "ppo"):
        shutil.rmtree(folder / name)
    found = missing(read_run(str(folder)))
    assert {"stage reward", "stage ppo or dpo"} <= found.keys()


def test_a_stage_that_was_stopped_is_known_by_its_config(folder: Path) -> None:
    shutil.rmtree(folder / "ppo" / "artefact")
    (folder / "ppo").rename(folder / "rloo")
    (folder / "summary.json").unlink()
    [stage] = read_run(str(folder)).of_kind("ppo")
    assert (stage.name, stage.artefact) == ("rloo", None)


def test_only_what_a_person_may_want_to_know_is_taken_from_a_manifest(folder: Path) -> None:
    for stage in read_run(str(folder)).stages:
        assert stage.artefact is not None
        assert not stage.artefact.keys() & {"golden", "chat_template"}
        assert json.dumps(stage.artefact)
