import pytest

from rlhf_forge.data.bad_records import POLICIES, Policy
from rlhf_forge.data.format import Kind
from rlhf_forge.data.records import (
    BadRecord,
    Conversation,
    Demonstration,
    Pair,
    Prompt,
    Record,
    assistant,
    user,
)
from rlhf_forge.data.tokenize import (
    DemonstrationExample,
    Example,
    PairExample,
    PromptExample,
    Tally,
    example_of,
    tokenize,
)
from rlhf_forge.errors import UserError
from tests.tiny_tokenizer import mistral_template

TEMPLATE = mistral_template()


def demonstration(answer: str = "Hello.", *, origin: str = "f:1") -> Demonstration:
    return Demonstration(user("Hi"), assistant(answer), origin, {})


def pair(chosen: str = "Good.", rejected: str = "Bad.") -> Pair:
    return Pair(user("Hi"), assistant(chosen), assistant(rejected), "f:1", {})


def prompt(conversation: Conversation | None = None) -> Prompt:
    return Prompt(user("Hi") if conversation is None else conversation, "f:1", {})


def make(record: Record, kind: Kind, *, max_length: int = 100) -> Example:
    return example_of(record, TEMPLATE, kind=kind, max_length=max_length)


def run(
    records: list[Record], *, bad_records: Policy = "skip", max_length: int = 100
) -> tuple[list[Example], Tally]:
    rows = [(record.origin, lambda record=record: [record]) for record in records]
    return tokenize(
        rows, TEMPLATE, kind="demonstrations", max_length=max_length, on_bad=POLICIES[bad_records]
    )


def test_a_demonstration_becomes_tokens_and_targets() -> None:
    example = make(demonstration(), "demonstrations")
    assert isinstance(example, DemonstrationExample)
    found = (list(example.tokens), list(example.targets))
    assert found == TEMPLATE.answered(user("Hi"), assistant("Hello."))


def test_the_preferred_answer_of_a_pair_is_a_demonstration() -> None:
    example = make(pair(), "demonstrations")
    assert isinstance(example, DemonstrationExample)
    assert list(example.tokens) == TEMPLATE.answered(user("Hi"), assistant("Good."))[0]


def test_both_sides_of_a_pair_become_tokens() -> None:
    example = make(pair(), "pairs")
    assert isinstance(example, PairExample)
    chosen = (list(example.chosen), list(example.chosen_response))
    rejected = (list(example.rejected), list(example.rejected_response))
    assert chosen == TEMPLATE.answered(user("Hi"), assistant("Good."))
    assert rejected == TEMPLATE.answered(user("Hi"), assistant("Bad."))


@pytest.mark.parametrize("record", [demonstration(), pair(), prompt()], ids=lambda r: type(r))
def test_every_record_gives_its_prompt_without_an_answer(record: Record) -> None:
    example = make(record, "prompts")
    assert isinstance(example, PromptExample)
    assert list(example.tokens) == TEMPLATE.prompt(user("Hi"))
    assert example.record == prompt()


def test_a_prompt_needs_no_usable_answer() -> None:
    assert make(pair("", ""), "prompts").record == prompt()


@pytest.mark.parametrize(
    ("record", "kind", "reason"),
    [
        (demonstration(" \n"), "demonstrations", "empty response"),
        (pair(chosen=""), "demonstrations", "empty response"),
        (pair(rejected=""), "pairs", "empty response"),
        (pair("Same.", "Same."), "pairs", "chosen and rejected are equal"),
        (pair("Same.", " Same.\n"), "pairs", "chosen and rejected are equal"),
        (demonstration(), "pairs", "not a pair of answers"),
        (prompt(), "demonstrations", "a prompt without a response"),
        (prompt(user(" ")), "prompts", "empty prompt"),
        (prompt([]), "prompts", "no prompt"),
    ],
)
def test_a_record_that_cannot_be_used_says_why(record: Record, kind: Kind, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        make(record, kind)


@pytest.mark.parametrize("kind", ["demonstrations", "pairs", "prompts"])
def test_an_example_may_be_as_long_as_max_length_and_no_longer(kind: Kind) -> None:
    record = pair("Good.", "Not so good, as it is longer.")
    example = make(record, kind)
    length = len(example.rejected) if isinstance(example, PairExample) else len(example.tokens)
    assert make(record, kind, max_length=length) == example
    with pytest.raises(BadRecord, match=f"{length} tokens, {length - 1} allowed"):
        make(record, kind, max_length=length - 1)


def test_the_tally_adds_up_and_groups_what_differs_in_numbers_only() -> None:
    records: list[Record] = [
        demonstration(origin="f:1"),
        demonstration("", origin="f:2"),
        demonstration("long " * 100, origin="f:3"),
        demonstration("long " * 200, origin="f:4"),
    ]
    examples, tally = run(records)
    assert [example.record for example in examples] == records[:1]
    assert (tally.read, tally.used) == (4, 1)
    assert dict(tally.skipped) == {
        "empty response": ["f:2"],
        "longer than data.max_length": ["f:3", "f:4"],
    }
    assert tally.lines() == [
        "4 records read, 1 used, 3 skipped",
        "1 skipped: empty response (f:2)",
        "2 skipped: longer than data.max_length (f:3, f:4)",
    ]


def test_of_many_skipped_records_the_first_are_named_and_the_rest_counted() -> None:
    tally = Tally(used=1, skipped={"empty response": [f"f:{n}" for n in range(2, 9)]})
    assert tally.lines()[1] == "7 skipped: empty response (f:2, f:3, f:4 and 4 more)"


def test_stop_names_the_record_the_reason_and_the_way_out() -> None:
    with pytest.raises(UserError, match=r"^f:2: empty response$") as caught:
        run([demonstration(), demonstration("", origin="f:2")], bad_records="stop")
    assert "data.bad_records" in str(caught.value.hint)


def test_nothing_left_is_refused_with_the_counts() -> None:
    with pytest.raises(UserError, match="no record is left: 1 records read, 0 used"):
        run([demonstration("")])


def test_an_example_holds_five_bytes_a_token() -> None:
    example = make(pair(chosen="Good. " * 9), "pairs")
    assert isinstance(example, PairExample)
    held = (example.chosen, example.chosen_response)
    assert sum(memoryview(part).nbytes for part in held) == 5 * len(example.chosen)  # type: ignore[misc, arg-type]
