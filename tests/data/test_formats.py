from typing import Any

import pytest

from rlhf_forge.data.detection import detect, renamed, require_columns
from rlhf_forge.data.format import Kind
from rlhf_forge.data.formats import FORMATS
from rlhf_forge.data.records import BadRecord, Demonstration, Pair, Prompt, Record
from rlhf_forge.errors import UserError

Row = dict[str, Any]


def turn(role: str, content: Any) -> Row:
    return {"role": role, "content": content}


def said(speaker: str, value: Any) -> Row:
    return {"from": speaker, "value": value}


ASKED = [turn("user", "Hi?")]
GOOD, BAD = [turn("assistant", "Good.")], [turn("assistant", "Bad.")]
HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "
PAIR = Pair(ASKED, GOOD, BAD, "f:1", {})
SHOWN = Demonstration(ASKED, GOOD, "f:1", {})


def read(row: Row, kind: Kind = "prompts") -> Record:
    (record,) = detect([row], "f", kind=kind).read(complete(row), "f:1")
    return record


def complete(row: Row) -> Row:
    return dict.fromkeys(name for form in FORMATS for name in form.names) | row


@pytest.mark.parametrize(
    ("name", "row", "record"),
    [
        (
            "pairs",
            {"prompt": "Hi?", "chosen": "Good.", "rejected": "Bad."},
            PAIR,
        ),
        ("pairs", {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}, PAIR),
        (
            "pairs",
            {"prompt": ASKED, "chosen": ASKED + GOOD, "rejected": ASKED + BAD},
            PAIR,
        ),
        (
            "pairs",
            {"prompt": ASKED, "chosen": "Good.", "rejected": "Bad."},
            PAIR,
        ),
        (
            "pairs",
            {
                "prompt": "Hi?",
                "chosen": ASKED + GOOD,
                "rejected": ASKED + BAD,
                "messages": ASKED + GOOD,
            },
            PAIR,
        ),
        (
            "pairs",
            {"prompt": f"{HUMAN}Hi?{ASSISTANT}", "chosen": "Good.", "rejected": "Bad."},
            PAIR,
        ),
        (
            "implicit-pairs",
            {"chosen": ASKED + GOOD, "rejected": ASKED + BAD},
            PAIR,
        ),
        (
            "hh",
            {
                "chosen": f"{HUMAN}Hi?{ASSISTANT}Good.",
                "rejected": f"{HUMAN}Hi?{ASSISTANT}Bad.",
            },
            PAIR,
        ),
        ("prompt-completion", {"prompt": "Hi?", "completion": "Good."}, SHOWN),
        ("prompt-completion", {"prompt": ASKED, "completion": GOOD}, SHOWN),
        ("messages", {"messages": ASKED + GOOD}, SHOWN),
        ("messages", {"messages": ASKED}, Prompt(ASKED, "f:1", {})),
        ("conversations", {"conversations": [said("human", "Hi?"), said("gpt", "Good.")]}, SHOWN),
        ("conversations", {"conversations": ASKED + GOOD}, SHOWN),
        ("text", {"text": "Good."}, Demonstration([], GOOD, "f:1", {})),
        ("alpaca", {"instruction": "Hi?", "output": "Good."}, SHOWN),
        ("alpaca", {"instruction": "Hi?", "input": "", "output": "Good."}, SHOWN),
        (
            "alpaca",
            {
                "instruction": "Add",
                "input": "1 2",
                "output": "3",
                "system": "Be.",
                "history": [["a", "b"]],
            },
            Demonstration(
                [
                    turn("system", "Be."),
                    turn("user", "a"),
                    turn("assistant", "b"),
                    turn("user", "Add\n1 2"),
                ],
                [turn("assistant", "3")],
                "f:1",
                {},
            ),
        ),
        ("prompts", {"prompt": "Hi?"}, Prompt(ASKED, "f:1", {})),
        ("prompts", {"prompt": ASKED}, Prompt(ASKED, "f:1", {})),
    ],
)
def test_each_format_is_told_and_read(name: str, row: Row, record: Record) -> None:
    assert detect([row], "f", kind="prompts").name == name
    assert read(row) == record


def test_the_prompt_of_two_answers_never_takes_from_their_common_beginning() -> None:
    row = {
        "chosen": f"{HUMAN}Sky?{ASSISTANT}The sky is blue.",
        "rejected": f"{HUMAN}Sky?{ASSISTANT}The sky is black.",
    }
    pair = read(row)
    assert isinstance(pair, Pair)
    assert pair.prompt == [turn("user", "Sky?")]
    assert pair.chosen == [turn("assistant", "The sky is blue.")]


def test_a_transcript_splits_at_its_last_answer_and_keeps_markers_inside_a_line() -> None:
    talk = f"{HUMAN}One{ASSISTANT}Two Human: no turn{HUMAN}Three"
    pair = read({"chosen": f"{talk}{ASSISTANT}Yes", "rejected": f"{talk}{ASSISTANT}No"})
    assert [t["role"] for t in pair.prompt] == ["user", "assistant", "user"]
    assert pair.prompt[1]["content"] == "Two Human: no turn"


def test_all_turns_behind_the_first_answer_are_the_response() -> None:
    record = read({"messages": [turn("system", "Be."), *ASKED, *GOOD, *ASKED, *BAD]})
    assert isinstance(record, Demonstration)
    assert record.prompt == [turn("system", "Be."), *ASKED]
    assert record.response == [*GOOD, *ASKED, *BAD]


def test_nulls_that_parquet_adds_to_turns_are_not_read() -> None:
    row = {
        "conversations": [
            said("human", "Hi?") | {"role": None, "content": None},
            said("gpt", "Good.") | {"role": None, "content": None},
        ]
    }
    assert read(row) == SHOWN


@pytest.mark.parametrize(
    ("row", "like", "reason"),
    [
        ({"chosen": ASKED + GOOD, "rejected": GOOD}, None, "differ before their last turn"),
        (
            {"chosen": f"{HUMAN}A{ASSISTANT}x", "rejected": f"{HUMAN}B{ASSISTANT}y"},
            None,
            "differ before their last turn",
        ),
        ({"chosen": ASKED, "rejected": ASKED}, None, "the last turn of chosen is not"),
        (
            {"prompt": ASKED, "chosen": [*BAD, *ASKED], "rejected": GOOD},
            None,
            "the last turn of chosen is not",
        ),
        (
            {"prompt": "x", "chosen": ASKED + GOOD, "rejected": ASKED + BAD},
            None,
            "chosen neither begins with the assistant nor repeats the prompt",
        ),
        ({"prompt": ASKED + GOOD}, None, "the prompt ends with an answer"),
        ({"messages": [turn("robot", "x")]}, None, "unknown role: 'robot' in messages"),
        ({"messages": [*ASKED, turn("assistant", None)]}, None, "a turn of messages is missing"),
        ({"messages": [turn("user", [{"type": "text"}])]}, None, "a turn of messages is a list"),
        ({"messages": [*ASKED, turn("tool", "3")]}, None, "the last turn of messages is not"),
        ({"text": None}, {"text": "x"}, "text is missing"),
        ({"prompt": 7}, {"prompt": "x"}, "prompt is a int, not a list of turns"),
        (
            {"prompt": "x", "completion": None},
            {"prompt": "x", "completion": "y"},
            "completion is missing",
        ),
        (
            {"chosen": "x", "rejected": "y"},
            {"chosen": f"{HUMAN}A{ASSISTANT}x", "rejected": f"{HUMAN}A{ASSISTANT}y"},
            "chosen is not a transcript",
        ),
        (
            {"instruction": "x", "output": "y", "history": [["a"]]},
            None,
            "history is not a list of",
        ),
        ({"instruction": "x", "output": "y", "input": 3}, None, "input is a int, not text"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: Row, like: Row | None, reason: str) -> None:
    form = detect([like or row], "f", kind="prompts")
    with pytest.raises(BadRecord, match=reason):
        form.read(complete(row), "f:1")


def test_a_few_broken_rows_do_not_hide_the_format_of_the_others() -> None:
    rows: list[Row] = [{"text": "x"}, {"text": None}, {"text": "y"}]
    assert detect(rows, "f", kind="demonstrations").name == "text"


def test_answers_beat_the_messages_copied_beside_them() -> None:
    row = {"chosen": ASKED + GOOD, "rejected": ASKED + BAD, "messages": ASKED + GOOD}
    assert detect([row], "f", kind="demonstrations").gives == "pairs"


def test_two_formats_at_once_are_refused_naming_both_and_the_way_out() -> None:
    row = {"messages": ASKED + GOOD, "prompt": "Hi?", "completion": "Good."}
    with pytest.raises(UserError, match="'prompt-completion' and 'messages'") as caught:
        detect([row], "f", kind="demonstrations")
    hint = "say which is meant: --data.format prompt-completion or --data.format messages"
    assert caught.value.hint == hint


@pytest.mark.parametrize("name", ["prompt-completion", "messages"])
def test_data_format_settles_a_tie(name: str) -> None:
    row = {"messages": ASKED + GOOD, "prompt": "Hi?", "completion": "Good."}
    assert detect([row], "f", kind="demonstrations", name=name).name == name


def test_a_named_format_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="there is no format 'mesages'") as caught:
        detect([{"messages": ASKED + GOOD}], "f", kind="demonstrations", name="mesages")
    assert caught.value.hint == "did you mean messages?"


def test_a_named_format_that_the_rows_have_not_is_refused_with_both_their_keys() -> None:
    with pytest.raises(UserError, match=r"format hh: most rows of f .* has chosen, rejected$") as e:
        detect([{"messages": ASKED + GOOD, "id": 1}], "f", kind="demonstrations", name="hh")
    assert e.value.hint == "the keys found are messages, id"


def test_a_named_format_that_is_never_read_is_refused_all_the_same() -> None:
    rows = [{"prompt": "a", "completion": "b", "label": True}]
    with pytest.raises(UserError, match="unpaired feedback"):
        detect(rows, "f", kind="demonstrations", name="unpaired")
    named = detect(rows, "f", kind="demonstrations", name="prompt-completion")
    assert named.name == "prompt-completion"


def test_named_columns_go_before_what_gives_more() -> None:
    row = {"prompt": "Hi?", "chosen": "Good.", "rejected": "Bad.", "completion": "Bad."}
    assert detect([row], "f", kind="demonstrations").name == "pairs"
    named = detect([row], "f", kind="demonstrations", named=["prompt", "completion"])
    assert named.name == "prompt-completion"


def test_naming_one_column_of_a_pair_does_not_make_it_a_prompt() -> None:
    row = {"prompt": "Hi?", "question": "Hi?", "good": "Good.", "chosen": "a", "rejected": "b"}
    assert detect([row], "f", kind="pairs", named=["prompt"]).name == "pairs"


def test_the_columns_a_person_names_decide_between_two_formats() -> None:
    row = {"messages": ASKED + GOOD, "prompt": "Hi?", "completion": "Good."}
    form = detect([row], "f", kind="demonstrations", named=["messages"])
    assert form.name == "messages"


def test_no_format_names_keys_the_nearest_and_what_to_type() -> None:
    with pytest.raises(UserError, match="its keys are asked, good, worse") as caught:
        detect([{"asked": "a", "good": "b", "worse": "c"}], "f", kind="pairs")
    assert "'pairs' (prompt, chosen, rejected)" in str(caught.value)
    assert "--data.map.prompt=asked --data.map.chosen=good" in str(caught.value.hint)


def test_of_the_unknown_formats_the_one_with_most_of_the_keys_is_nearest() -> None:
    row = {"context": ASKED, "response1": "a", "response2": "b", "overall": 1}
    with pytest.raises(UserError, match=r"'helpsteer3' .*, without overall_preference") as caught:
        detect([row], "f", kind="pairs")
    assert "--data.map.overall_preference=overall" in str(caught.value.hint)


def test_two_plain_answers_without_a_prompt_are_refused() -> None:
    with pytest.raises(UserError, match="without prompt"):
        detect([{"chosen": "The sky is blue", "rejected": "The sky"}], "f", kind="pairs")


def test_demonstrations_are_refused_where_pairs_are_needed() -> None:
    with pytest.raises(UserError, match=r"holds demonstrations .* needs pairs"):
        detect([{"messages": ASKED + GOOD}], "f", kind="pairs")


def test_prompts_are_refused_where_demonstrations_are_needed() -> None:
    with pytest.raises(UserError, match=r"holds prompts .* needs demonstrations"):
        detect([{"prompt": "Hi?"}], "f", kind="demonstrations")


def test_thumbs_up_and_down_are_not_read_as_demonstrations() -> None:
    rows = [{"prompt": "a", "completion": "b", "label": good} for good in (True, False)]
    with pytest.raises(UserError, match="unpaired feedback"):
        detect(rows, "f", kind="demonstrations")


def test_named_columns_are_read_under_the_formats_names() -> None:
    row = {"question": "Hi?", "answer": "Good.", "id": 7}
    ours = renamed(row, {"prompt": "question", "completion": "answer"})
    assert read(ours, "demonstrations") == SHOWN


def test_a_named_column_replaces_one_that_has_the_formats_name() -> None:
    assert renamed({"prompt": "old", "question": "new"}, {"prompt": "question"})["prompt"] == "new"


@pytest.mark.parametrize(
    ("columns", "hint"),
    [({"prompt": "questoin"}, "question"), ({"promt": "question"}, "prompt")],
)
def test_a_misspelt_name_is_refused_with_the_nearest(columns: dict[str, str], hint: str) -> None:
    with pytest.raises(UserError) as caught:
        require_columns([{"question": "Hi?"}], columns, "f")
    assert caught.value.hint == f"did you mean {hint}?"
