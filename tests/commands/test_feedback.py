"""``export-feedback`` and ``import-feedback``: from votes to a file that training reads."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.__main__ import main
from rlhf_forge.data.module import PreferenceDataModule
from rlhf_forge.data.records import Pair
from rlhf_forge.serve.feedback.export import sorted_out
from rlhf_forge.serve.feedback.store import FeedbackStore
from rlhf_forge.serve.feedback.votes import Vote
from tests.serve.feedback.casts import cast_all, comparison, side, undo
from tests.serve.feedback.test_open_webui import rated
from tests.tiny_project import told
from tests.tiny_tokenizer import mistral_tokenizer


def store(path: Path, *bodies: dict[str, Any]) -> Path:
    for vote in cast_all(*bodies):
        FeedbackStore(path).add(vote)
    return path


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    votes = [comparison(n, "ab"[n % 2]) for n in range(8)]
    votes += [comparison(8, "tie"), comparison(9, "skip"), comparison(10), undo(0, of=10)]
    votes += [comparison(11, a=side("É 世界 🦊", "sft"), strength=3)]
    votes += [comparison(12, seconds_to_vote=0.1)]
    return store(tmp_path / "feedback.sqlite", *votes)


def test_what_is_left_out_is_told_and_what_comes_next(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "votes.jsonl"
    assert main(["export-feedback", str(db), str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"9 pairs in {out}",
        f"2 ties, both bad and skips in {tmp_path / 'votes.undecided.jsonl'}",
        "1 left out: flagged too_fast",
        "1 left out: undone",
    ]
    assert f"fit --config reward.yaml --data.path {out}" in said.err
    assert [row["choice"] for row in lines(tmp_path / "votes.undecided.jsonl")] == ["tie", "skip"]


@pytest.mark.parametrize("form", ["trl", "openai", "arena"])
def test_what_is_exported_is_read_by_training_as_it_is(form: str, db: Path, tmp_path: Path) -> None:
    out = tmp_path / "votes.jsonl"
    assert main(["export-feedback", str(db), str(out), "--format", form]) == 0
    assert len(lines(tmp_path / "votes.undecided.jsonl")) == 2
    mistral_tokenizer().save_pretrained(tmp_path / "base")
    data = PreferenceDataModule(
        path=str(out),
        max_length=64,
        batch_size=2,
        bad_records="stop",
        tokenizer=str(tmp_path / "base"),
        kind="pairs",
    )
    data.setup("fit")
    records = [example.record for example in (*data.train.examples, *data.held_out)]
    read = [(r.prompt, r.chosen, r.rejected) for r in records if isinstance(r, Pair)]
    votes = sorted_out(FeedbackStore(db).votes(), keep_cut=False).decided
    assert sorted(map(str, read)) == sorted(str(preferred(vote)) for vote in votes)
    assert "É 世界 🦊" in str(read)


def preferred(vote: Vote) -> tuple[Any, Any, Any]:
    a, b = ([{"role": "assistant", "content": side.text}] for side in vote.sides)
    return (vote.messages, a, b) if vote.choice == "a" else (vote.messages, b, a)


def test_cut_answers_are_exported_only_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = comparison(0, a=side("It is", "sft", finish_reason="cut_by_vote"))
    arguments = [str(store(tmp_path / "db", cut)), str(tmp_path / "votes.jsonl")]
    assert main(["export-feedback", *arguments]) == 0
    assert "1 left out: flagged cut_by_vote" in capsys.readouterr().out
    assert main(["export-feedback", *arguments, "--keep-cut"]) == 0
    assert len(lines(tmp_path / "votes.jsonl")) == 1


def test_people_who_contradict_each_other_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = store(tmp_path / "db", comparison(0), comparison(0, "b", id="x", annotator="Bob"))
    assert main(["export-feedback", str(db), str(tmp_path / "votes.jsonl")]) == 0
    assert "people contradict each other on 1 pairs" in capsys.readouterr().err


def test_mistakes_are_told_in_one_line(
    db: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, out = tmp_path / "none", tmp_path / "votes.jsonl"
    assert told(["export-feedback", str(missing), str(out)], capsys)[0].endswith("no such file")
    assert not missing.exists()
    assert ".jsonl" in told(["export-feedback", str(db), str(tmp_path / "votes.csv")], capsys)[0]
    told(["export-feedback", str(db), str(out), "--format", "csv"], capsys)
    (tmp_path / "text").write_text("no database " * 100)
    error, _ = told(["export-feedback", str(tmp_path / "text"), str(out)], capsys)
    assert "not a file of votes" in error


def test_open_webuis_ratings_are_imported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "ratings.json"
    broken = rated() | {"data": None, "id": "f2"}
    exported.write_text(json.dumps([rated(), rated(alone=True) | {"id": "f3"}, broken]))
    db = tmp_path / "feedback.sqlite"
    assert main(["import-feedback", str(exported), str(db)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"1 comparisons and 1 thumbs in {db}",
        "1 not used: no data",
    ]
    assert main(["import-feedback", str(exported), str(db)]) == 0
    assert "2 were there already" in capsys.readouterr().out
    assert main(["export-feedback", str(db), str(tmp_path / "votes.jsonl")]) == 0
    [row] = lines(tmp_path / "votes.jsonl")
    assert row["chosen"] == [{"role": "assistant", "content": "Hello."}]
    assert row["source"] == "open-webui"
