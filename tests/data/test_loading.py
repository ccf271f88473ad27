import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_forge.data.format import Kind
from rlhf_forge.data.loading import Loaded, load_examples, split_held_out
from rlhf_forge.data.tokenize import DemonstrationExample, Policy
from rlhf_forge.errors import UserError
from tests.tiny_tokenizer import mistral_template

Row = dict[str, Any]
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
        bad_records=bad_records,
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


def test_held_out_records_stay_so_when_data_is_added(tmp_path: Path) -> None:
    _, few = split_held_out(load(write(tmp_path, texts(100))), 0.2)
    train, more = split_held_out(load(write(tmp_path, texts(200))), 0.2)
    assert 10 <= len(few) <= 30
    assert more[: len(few)] == few
    assert len(train.examples) + len(more) == 200


def test_all_answers_to_a_prompt_fall_on_one_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n % 20}?", "completion": f"{n}."} for n in range(60)]
    train, held_out = split_held_out(load(write(tmp_path, rows)), 0.3)
    trained_on = {example.record.prompt[0]["content"] for example in train.examples}
    assert held_out
    assert trained_on.isdisjoint(e.record.prompt[0]["content"] for e in held_out)


def test_a_share_of_nothing_holds_nothing_out(tmp_path: Path) -> None:
    train, held_out = split_held_out(load(write(tmp_path, texts(5))), 0.0)
    assert (len(train.examples), held_out) == (5, [])


def test_a_share_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all 1 records fall to the held-out share"):
        split_held_out(load(write(tmp_path, texts(1))), 0.9999999)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(UserError, match=r"data\.validation_fraction"):
        split_held_out(load(write(tmp_path, texts(5))), fraction)


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
