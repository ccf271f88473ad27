import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from rlhf_forge.data.bad_records import POLICIES, Policy
from rlhf_forge.data.detection import SAMPLE
from rlhf_forge.data.format import Kind
from rlhf_forge.data.formats import FORMATS
from rlhf_forge.data.loading import Loaded, load_examples
from rlhf_forge.data.records import Pair
from rlhf_forge.data.tokenize import DemonstrationExample, PairExample
from rlhf_forge.errors import UserError
from tests.tiny_tokenizer import mistral_template

Row = dict[str, Any]
TEXT = next(form for form in FORMATS if form.name == "text")
HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "


def write(folder: Path, rows: list[Row], name: str = "data.jsonl") -> str:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def load(
    path: str,
    kind: Kind = "demonstrations",
    *,
    columns: dict[str, str] | None = None,
    bad_records: Policy = "skip",
    max_length: int = 200,
) -> Loaded:
    return load_examples(
        path,
        mistral_template(),
        split="train",
        columns=columns or {},
        kind=kind,
        max_length=max_length,
        on_bad=POLICIES[bad_records],
        seed=0,
    )


def texts(number: int) -> list[Row]:
    return [{"text": f"Text number {n}."} for n in range(number)]


def test_examples_keep_the_order_origin_and_raw_row_of_the_source(tmp_path: Path) -> None:
    rows = [{"question": f"{n}?", "answer": f"{n}.", "skill": n} for n in range(3)]
    path = write(tmp_path, rows)
    loaded = load(path, columns={"prompt": "question", "completion": "answer"})
    assert [example.record.fields for example in loaded.examples] == rows
    assert loaded.examples[2].record.origin == f"{path}:3"
    assert loaded.examples[2].record.prompt[0]["content"] == "2?"


def test_transcripts_are_read_and_their_bad_rows_counted_with_line_and_reason(
    tmp_path: Path,
) -> None:
    talk = f"{HUMAN}Is it?{ASSISTANT}Perhaps.{HUMAN}Well?"
    rows: list[Row] = [
        {"chosen": f"{talk}{ASSISTANT}Yes.", "rejected": f"{talk}{ASSISTANT}No."},
        {"chosen": f"{talk}{ASSISTANT}", "rejected": f"{talk}{ASSISTANT}No."},
        {"chosen": f"{talk}{ASSISTANT}Yes.", "rejected": f"{HUMAN}Other{ASSISTANT}No."},
        {"chosen": f"{talk}{ASSISTANT}Same.", "rejected": f"{talk}{ASSISTANT}Same. "},
        {"chosen": "No transcript", "rejected": f"{talk}{ASSISTANT}No."},
        {"chosen": None, "rejected": f"{talk}{ASSISTANT}No."},
        {"chosen": f"{talk}{ASSISTANT}Yes.", "rejected": f"{talk}{ASSISTANT}Certainly not."},
    ]
    path = write(tmp_path, rows)
    loaded = load(path, "pairs")
    assert [example.record.origin for example in loaded.examples] == [f"{path}:1", f"{path}:7"]
    assert dict(loaded.tally.skipped) == {
        "empty response": [f"{path}:2"],
        "chosen and rejected differ before their last turn": [f"{path}:3"],
        "chosen and rejected are equal": [f"{path}:4"],
        "chosen is not a transcript of Human and Assistant turns": [f"{path}:5", f"{path}:6"],
    }
    assert loaded.tally.read == len(rows)


def test_the_first_bad_record_stops_the_load_by_default(tmp_path: Path) -> None:
    path = write(tmp_path, [*texts(2), {"text": ""}])
    with pytest.raises(UserError) as caught:
        load(path, bad_records="stop")
    assert str(caught.value) == f"{path}:3: empty response"


def test_a_broken_line_is_a_bad_record_like_any_other(tmp_path: Path) -> None:
    path = write(tmp_path, texts(3))
    lines = Path(path).read_text().splitlines()
    Path(path).write_text("\n".join(["{broken", lines[0], "[1]", *lines[1:], "{more"]))
    loaded = load(path)
    assert [example.record.origin for example in loaded.examples] == [
        *(f"{path}:{number}" for number in (2, 4, 5))
    ]
    assert dict(loaded.tally.skipped) == {
        "broken JSON": [f"{path}:1", f"{path}:6"],
        "a list, where an object is wanted": [f"{path}:3"],
    }
    with pytest.raises(UserError) as caught:
        load(path, bad_records="stop")
    assert str(caught.value).startswith(f"{path}:1: broken JSON: Expecting property name")
    assert "data.bad_records" in str(caught.value.hint)


def test_lines_of_which_none_can_be_read_are_refused_whatever_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, [])
    Path(path).write_text("[\n[1],\n]\n")
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:1: broken JSON: Expecting value at column 2"
    assert "a JSON object is wanted on each" in str(caught.value.hint)


def test_a_missing_column_in_one_row_is_a_bad_record(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, [*texts(2), {"other": 1}]))
    assert list(loaded.tally.skipped) == ["text is missing"]


def test_the_fingerprint_is_one_of_content_and_order(tmp_path: Path) -> None:
    rows = texts(3)
    first = load(write(tmp_path, rows)).fingerprint()
    assert load(write(tmp_path, rows, "copy.jsonl")).fingerprint() == first
    assert load(write(tmp_path, rows[::-1])).fingerprint() != first
    assert load(write(tmp_path, rows[:2])).fingerprint() != first


def test_the_fingerprint_tells_what_is_learnt(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant") * 2]
    whole = load(write(tmp_path, [{"messages": turns}])).fingerprint()
    last = load(write(tmp_path, [{"prompt": turns[:3], "completion": turns[3:]}])).fingerprint()
    assert whole != last


def arena_rows() -> list[Row]:
    """A battle won, a tie, one that is both bad, and one whose winner nobody knows."""
    winners = ("model_a", "tie", "tie (bothbad)", "?")
    turns = [{"role": "user", "content": "Hi?"}]
    return [
        {
            "model_a": "m",
            "model_b": "n",
            "winner": winner,
            "conversation_a": [*turns, {"role": "assistant", "content": "Good."}],
            "conversation_b": [*turns, {"role": "assistant", "content": "Bad."}],
        }
        for winner in winners
    ]


def ranking(*ranks: int) -> Row:
    return {
        "context": [{"role": "user", "content": "Hi?"}],
        "completions": [
            {"rank": rank, "completion": [{"role": "assistant", "content": f"{place}."}]}
            for place, rank in enumerate(ranks)
        ],
    }


def test_a_row_without_a_preference_is_counted_by_its_reason_and_stops_nothing(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, arena_rows())
    loaded = load(path, "pairs", bad_records="stop")
    assert len(loaded.examples) == 1
    assert dict(loaded.tally.skipped) == {
        "tie": [f"{path}:2"],
        "both bad": [f"{path}:3"],
        "unknown winner": [f"{path}:4"],
    }
    assert loaded.tally.read == 4


def test_a_row_without_a_preference_still_gives_its_prompt_and_no_demonstration(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, arena_rows())
    assert len(load(path, "prompts", bad_records="stop").examples) == 4
    assert len(load(path, "demonstrations", bad_records="stop").examples) == 1


def test_a_vote_log_counts_what_is_no_vote_whatever_the_stage_needs(tmp_path: Path) -> None:
    rows: list[Row] = [{"tstamp": 1.0, "type": "chat", "state": {}}]
    states = [{"messages": [["U", "Hi?"], ["A", answer]]} for answer in ("Good.", "Bad.")]
    rows.append({"tstamp": 2.0, "type": "leftvote", "states": states, "ip": "192.0.2.1"})
    path = write(tmp_path, rows)
    for kind in ("pairs", "demonstrations", "prompts"):
        loaded = load(path, kind, bad_records="stop")
        assert dict(loaded.tally.skipped) == {"not a vote but chat": [f"{path}:1"]}
        assert "192.0.2.1" not in str(loaded.examples), "what is private is dropped on reading"


def test_a_ranking_of_k_gives_all_its_pairs_and_one_prompt_and_its_best_answer(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, [ranking(2, 0, 1, 1)])
    pairs = load(path, "pairs")
    assert len(pairs.examples) == 5
    assert dict(pairs.tally.skipped) == {"equal scores": [f"{path}:1"]}
    assert pairs.tally.lines()[0] == "6 records read, 5 used, 1 skipped, from 1 rows"
    assert {e.record.group for e in pairs.examples if isinstance(e, PairExample)} == {f"{path}:1"}
    (best,) = load(path, "demonstrations").examples
    assert isinstance(best.record, Pair)
    assert best.record.chosen == [{"role": "assistant", "content": "1."}]
    assert len(load(path, "prompts").examples) == 1


def test_the_fingerprint_tells_margins_and_preferences_and_is_the_old_one_without(
    tmp_path: Path,
) -> None:
    row: Row = {"prompt": "Hi?", "chosen": "Good.", "rejected": "Bad."}
    rows: list[Row] = [row, row | {"margin": None}, row | {"margin": 1}, row | {"preference": 0.7}]
    marks = [
        load(write(tmp_path, [row], f"{n}.jsonl"), "pairs").fingerprint()
        for n, row in enumerate(rows)
    ]
    assert marks[0] == marks[1]
    assert len(set(marks)) == 3


def test_rows_are_read_one_by_one_and_no_unused_row_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[int] = []
    made: WeakSet[Any] = WeakSet()

    class Held:
        """Of a row: it lives as long as the row does."""

    def rows(*args: Any, **options: Any) -> Iterator[tuple[str, Row]]:
        for number in range(1000):
            held = Held()
            made.add(held)
            yield f"f:{number}", {"text": "" if number else "Text.", "held": held}
            del held
            alive.append(len(made))

    monkeypatch.setattr("rlhf_forge.data.loading.read_rows", rows)
    monkeypatch.setattr("rlhf_forge.data.loading.detect", lambda *_, **__: TEXT)
    assert load("f").tally.read == 1000
    assert SAMPLE <= max(alive) <= SAMPLE + 3


def test_the_summary_shows_format_counts_and_one_example_with_what_is_learnt(
    tmp_path: Path,
) -> None:
    more = [{"prompt": "a", "completion": "b"}, {"prompt": "x"}]
    path = write(tmp_path, [{"prompt": "Hi?", "completion": "Good\nday."}, *more])
    lines = load(path).summary(mistral_template(), "demonstrations")
    assert lines == [
        f"data: {path}: format 'prompt-completion' (prompt -> prompt, completion -> response)",
        "  3 records read, 2 used, 1 skipped, as demonstrations",
        f"  1 skipped: completion is missing ({path}:3)",
        "  demonstration: <s>[INST] Hi?[/INST]» Good\\nday.</s>«",
    ]


def test_a_long_example_is_shown_with_both_ends(tmp_path: Path) -> None:
    path = write(tmp_path, [{"text": "begin " + "and " * 500 + "end"}])
    shown = load(path, max_length=10_000).summary(mistral_template(), "demonstrations")[-1]
    assert len(shown) < 500
    assert "begin" in shown
    assert shown.endswith("end</s>«")


def test_an_array_and_lines_of_the_same_rows_give_the_same_examples(tmp_path: Path) -> None:
    rows = texts(3)
    array = tmp_path / "data.json"
    array.write_text(json.dumps(rows))
    assert load(str(array)).fingerprint() == load(write(tmp_path, rows)).fingerprint()


def test_targets_of_several_turns_are_those_of_the_response(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant") * 2]
    (example,) = load(write(tmp_path, [{"messages": turns}])).examples
    assert isinstance(example, DemonstrationExample)
    assert [t for t, on in zip(example.tokens, example.targets, strict=True) if on].count(2) == 2
