"""The HH-RLHF harmless-base test file, which is not part of the project: FORGE_HH points to it."""

import os

import pytest

from rlhf_forge.data.bad_records import skip
from rlhf_forge.data.format import Kind
from rlhf_forge.data.loading import Loaded, load_examples
from tests.tiny_tokenizer import mistral_template

PATH = os.environ.get("FORGE_HH", "")
RECORDS = 2312
DIFFERENT = [1255, 1689, 1951, 1953, 2037]
EMPTY = [87, 517, 926, 1104]

pytestmark = pytest.mark.skipif(not PATH, reason="FORGE_HH does not point to the file")


def load(kind: Kind) -> Loaded:
    return load_examples(
        PATH,
        mistral_template(),
        split="train",
        columns={},
        kind=kind,
        max_length=100_000,
        on_bad=skip,
        seed=0,
    )


def at(*lines: int) -> list[str]:
    return [f"{PATH}:{line}" for line in lines]


@pytest.mark.parametrize("kind", ["pairs", "demonstrations"])
def test_every_record_is_used_or_counted_with_its_line(kind: Kind) -> None:
    loaded = load(kind)
    assert loaded.form.name == "hh"
    assert loaded.tally.read == RECORDS
    assert dict(loaded.tally.skipped) == {
        "chosen and rejected differ before their last turn": at(*DIFFERENT),
        "empty response": at(*EMPTY),
    }


def test_an_empty_answer_costs_no_prompt() -> None:
    assert dict(load("prompts").tally.skipped) == {
        "chosen and rejected differ before their last turn": at(*DIFFERENT)
    }
