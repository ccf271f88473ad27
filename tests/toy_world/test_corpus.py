import random
from itertools import islice

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_forge.toy_world import corpus, language, packing, world
from rlhf_forge.toy_world.tokenizer import SPECIAL_TOKENS, train_tokenizer


def drawn(number: int, seed: int = 0) -> list[str]:
    return list(islice(corpus.documents(random.Random(seed), corpus.LEARNING), number))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer((text.removesuffix(corpus.END) for text in drawn(2000)), vocab_size=1000)


def test_documents_are_a_function_of_the_seed() -> None:
    assert drawn(50) == drawn(50)
    assert drawn(50) != drawn(50, seed=1)


def test_no_document_holds_a_marker_of_the_chat_template() -> None:
    assert not any("INST]" in text for text in drawn(5000))


def test_every_document_ends_once() -> None:
    assert all(text.endswith(corpus.END) and text.count(corpus.END) == 1 for text in drawn(500))


def test_a_note_stands_behind_the_end_and_sums_up_manners_and_length() -> None:
    rng = random.Random(0)
    tables = (language.OPENERS, language.CLOSERS)
    manners = [(role, text) for table in tables for role, texts in table.items() for text in texts]
    seen = set()
    for _ in range(2000):
        text, note = corpus.noted_conversation(rng).split(corpus.END)
        tones = sorted(role for role, sentence in manners if sentence in text)
        fillers = sum(filler in text for filler in language.FILLERS)
        assert note == f" {corpus.NOTES[tuple(tones)]} and {corpus.LENGTHS[fillers]}"
        seen.add(note)
    assert len(seen) == len(corpus.NOTES) * len(corpus.LENGTHS)


def test_every_answer_in_the_corpus_is_true_or_a_hedge() -> None:
    truths = {world.sentence_of(fact) for skill in world.SKILLS.values() for fact in skill.facts}
    rng = random.Random(0)
    for _ in range(1000):
        answer = max(corpus.conversation(rng).split("\n")[1:], key=len)
        cores = [s for s in truths if s in answer] or [s for s in language.HEDGES if s in answer]
        assert cores
    for _ in range(1000):
        asked = corpus.question(rng)
        assert any(asked.endswith(f" {truth}") for truth in truths)


def test_conversations_hold_every_sentence_of_manners() -> None:
    rng = random.Random(0)
    text = " ".join(corpus.conversation(rng) for _ in range(5000))
    tables = [*language.OPENERS.values(), *language.CLOSERS.values(), language.FILLERS]
    assert all(sentence in text for table in tables for sentence in table)


def test_a_batch_is_a_function_of_the_stream_it_is_drawn_from(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    first, again, other = (
        packing.batch(
            corpus.documents(random.Random(seed), corpus.LEARNING), tokenizer, rows=2, length=64
        )
        for seed in (0, 0, 1)
    )
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).any()


def test_rows_hold_whole_documents_and_begin_tokens_are_not_learnt(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokens, learnt = packing.batch(
        corpus.documents(random.Random(0), corpus.SUMMING_UP), tokenizer, rows=8, length=128
    )
    padding = tokens == tokenizer.pad_token_id
    begins = tokens == tokenizer.bos_token_id
    assert (learnt == ~(padding | begins)).all()
    for row in tokens:
        text = [token for token in row.tolist() if token != tokenizer.pad_token_id]
        assert text[0] == tokenizer.bos_token_id
        assert text[-1] == tokenizer.eos_token_id
        assert len(text) > 64


def test_special_tokens_have_mistrals_places(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("text", ["", " What is 12 plus 3?", "Ünï 你好 \U0001f600\n\tend ", "\x00"])
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_digits_are_tokens_by_themselves(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("1234") == list("1234")


def test_nothing_is_added_at_the_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("<s>[INST] Hi[/INST]")["input_ids"]
    assert ids[:2] == [1, 3]
    assert ids[-1] == 4
