from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_forge.data.formats import FORMATS
from rlhf_forge.data.loading import Loaded
from rlhf_forge.data.records import Demonstration, Pair, Prompt, Record, assistant, user
from rlhf_forge.data.splits import (
    on_both_sides,
    prompt_digest,
    split_held_out,
    weighted_by_group,
)
from rlhf_forge.data.tokenize import (
    DemonstrationExample,
    Example,
    PairExample,
    PromptExample,
    Tally,
)
from rlhf_forge.errors import UserError

WORDS = st.text("abc ?", max_size=4)
SHARES = st.floats(0, 0.9)


def loaded(examples: list[Example]) -> Loaded:
    return Loaded("f", FORMATS[0], examples, Tally(used=len(examples)))


def prompts(texts: list[str]) -> list[Example]:
    return [PromptExample([], Prompt(user(text), "f:1", {})) for text in texts]


def pairs(groups: dict[str, int]) -> list[Example]:
    """So many pairs of each group; those of the group "" are of none."""
    return [
        PairExample(
            [number],
            [],
            [],
            [],
            Pair(user(name), assistant("a"), assistant("b"), "f:1", {}, group=name or None),
        )
        for name, count in groups.items()
        for number in range(count)
    ]


def sides(examples: list[Example], share: float) -> tuple[list[Example], list[Example]]:
    """What is trained on and held out; with a record that makes sure that something is left."""
    anchor = PromptExample([], Prompt(user("anchor 6"), "f:0", {}))
    assert int.from_bytes(prompt_digest(anchor.record)[:8]) / 2**64 > 0.9
    train, held_out = split_held_out(loaded([*examples, anchor]), share)
    return train.examples[:-1], held_out


@given(st.lists(WORDS), st.lists(WORDS), SHARES, st.randoms())
def test_other_data_in_any_order_never_moves_a_prompt_across(
    few: list[str], more: list[str], share: float, random: object
) -> None:
    train, held_out = sides(prompts(few), share)
    together = [*few, *more]
    random.shuffle(together)  # type: ignore[attr-defined] # hypothesis gives a random.Random
    wide_train, wide_held_out = sides(prompts(together), share)
    assert {repr(e.record) for e in train} <= {repr(e.record) for e in wide_train}
    assert {repr(e.record) for e in held_out} <= {repr(e.record) for e in wide_held_out}
    assert len(wide_train) + len(wide_held_out) == len(together)


@given(st.lists(WORDS), SHARES)
def test_a_larger_share_holds_out_what_a_smaller_one_did_and_more(
    texts: list[str], share: float
) -> None:
    _, small = sides(prompts(texts), share / 2)
    _, large = sides(prompts(texts), share)
    assert {repr(e.record) for e in small} <= {repr(e.record) for e in large}


@given(st.dictionaries(WORDS, st.integers(1, 6), max_size=8), SHARES)
def test_a_group_and_equal_prompts_stay_on_one_side(groups: dict[str, int], share: float) -> None:
    train, held_out = sides(pairs(groups), share)
    blank = [{e.record.prompt[0]["content"].strip() for e in side} for side in (train, held_out)]
    assert blank[0].isdisjoint(blank[1])
    assert len(train) + len(held_out) == sum(groups.values())


@pytest.mark.parametrize(
    "record",
    [
        Pair(user("Hi?"), assistant("a"), assistant("b"), "f:1", {}),
        Demonstration(user("Hi?"), assistant("c"), "g:2", {"x": 1}),
        Prompt(user(" Hi?\n"), "h:3", {}),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_prompt_falls_on_the_same_side_in_every_stage(record: Record) -> None:
    assert prompt_digest(record) == prompt_digest(Prompt(user("Hi?"), "f:1", {}))


def test_a_prompt_is_its_roles_and_its_words() -> None:
    texts = ("Hi?", "hi?", "Hi ?")
    digests = {prompt_digest(Prompt(user(text), "f:1", {})) for text in texts}
    digests.add(prompt_digest(Prompt(assistant("Hi?"), "f:1", {})))
    digests.add(prompt_digest(Prompt(user("H") + user("i?"), "f:1", {})))
    assert len(digests) == 5


def test_a_record_without_a_prompt_is_placed_by_its_response() -> None:
    digests = {prompt_digest(Demonstration([], assistant(t), "f:1", {})) for t in ("a", "b")}
    assert len(digests) == 2


def test_where_a_prompt_falls_is_the_same_in_every_version() -> None:
    digest = prompt_digest(Prompt(user("What is 1?"), "f:1", {}))
    assert digest.hex().startswith("a62c70e1b8486a50")


def test_about_the_share_is_held_out() -> None:
    train, held_out = split_held_out(loaded(prompts([f"{n}?" for n in range(1000)])), 0.2)
    assert 160 < len(held_out) < 240
    assert len(train.examples) + len(held_out) == 1000


def test_a_share_of_nothing_holds_nothing_out() -> None:
    train, held_out = split_held_out(loaded(prompts(["a", "b"])), 0.0)
    assert (len(train.examples), held_out) == (2, [])


def test_a_share_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match="all 1 records fall to the held-out share"):
        split_held_out(loaded(prompts(["a"])), 0.9999999)


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match=r"data\.validation_fraction"):
        split_held_out(loaded(prompts(["a"])), fraction)


def test_held_out_records_whose_prompt_is_trained_on_are_counted() -> None:
    assert on_both_sides(prompts(["a", "b", "b"]), prompts(["b ", "c", "b"])) == 2


def test_the_pairs_of_a_ranking_count_as_much_as_one_pair_and_all_one_on_average() -> None:
    weighted = weighted_by_group(pairs({"k": 6, "": 2, "l": 1}))
    totals: dict[str | None, float] = defaultdict(float)
    for example in weighted:
        assert isinstance(example, PairExample)
        totals[example.record.group] += example.weight
    # Nine pairs for four prompts: each prompt weighs nine quarters.
    assert totals == pytest.approx({"k": 9 / 4, None: 2 * 9 / 4, "l": 9 / 4})


@given(st.dictionaries(WORDS, st.integers(1, 6), min_size=1, max_size=8))
def test_weights_are_1_on_average_and_equal_within_a_group(groups: dict[str, int]) -> None:
    weighted = [e for e in weighted_by_group(pairs(groups)) if isinstance(e, PairExample)]
    assert sum(e.weight for e in weighted) == pytest.approx(len(weighted))
    of_group = defaultdict(set)
    for example in weighted:
        of_group[example.record.group].add(example.weight)
    assert all(len(weights) == 1 for weights in of_group.values())


def test_without_a_ranking_nothing_is_weighed() -> None:
    examples = [*pairs({"": 3, "k": 1})]
    assert weighted_by_group(examples) is examples
    demonstrations: list[Example] = [
        DemonstrationExample([], [], Demonstration([], assistant("a"), "f:1", {}))
    ]
    assert weighted_by_group(demonstrations) is demonstrations
