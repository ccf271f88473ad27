import random
from itertools import islice

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_forge.toy_world import corpus, language, mistakes, packing, world
from rlhf_forge.toy_world.tokenizer import SPECIAL_TOKENS, train_tokenizer


def drawn(number: int, seed: int = 0) -> list[corpus.Document]:
    return list(islice(corpus.documents(random.Random(seed), corpus.LEARNING), number))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = ("".join(text for text, _ in piece) for piece in drawn(2000))
    return train_tokenizer((text.replace(corpus.END, "") for text in texts), vocab_size=1000)


def test_documents_are_a_function_of_the_seed() -> None:
    assert drawn(50) == drawn(50)
    assert drawn(50) != drawn(50, seed=1)


def test_no_document_holds_a_marker_of_the_chat_template() -> None:
    assert not any("INST]" in text for piece in drawn(5000) for text, _ in piece)


def test_every_document_ends() -> None:
    assert all("".join(text for text, _ in piece).endswith(corpus.END) for piece in drawn(500))


def test_wrong_answers_and_manners_are_never_learnt() -> None:
    rng = random.Random(0)
    truths = {world.sentence_of(fact) for skill in world.SKILLS.values() for fact in skill.facts}
    for _ in range(1000):
        learnt = "".join(text for text, weight in corpus.graded_question(rng) if weight)
        core, verdict, end = learnt.rpartition(
            next(f" {v}" for v in corpus.VERDICTS if f" {v}" in learnt)
        )
        assert core == "" or (core.strip() in truths and verdict == " Right.")
        assert end == corpus.END


def test_verdicts_are_true() -> None:
    rng = random.Random(0)
    counts = dict.fromkeys(corpus.VERDICTS, 0)
    for _ in range(1000):
        *_, core, _, verdict = [text for text, _ in corpus.graded_question(rng)]
        role = language.role_of(core.strip())
        name = verdict.removesuffix(corpus.END).strip()
        counts[name] += 1
        assert (name == "No answer.") == (role in ("hedge", "junk"))
    assert counts["Right."] > 400 < counts["Wrong."]


def test_a_wrong_sentence_is_never_called_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mistakes, "wrong_answer", lambda fact, rng: "WRONG.")
    rng = random.Random(0)
    for text in ("".join(t for t, _ in corpus.graded_statement(rng)) for _ in range(200)):
        assert ("WRONG." in text) == ("Wrong." in text)


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


def test_rows_hold_whole_documents(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens, weights = packing.batch(
        corpus.documents(random.Random(0), corpus.LEARNING), tokenizer, rows=8, length=128
    )
    assert (weights[tokens == tokenizer.pad_token_id] == 0).all()
    assert (weights[tokens == tokenizer.bos_token_id] == 0).all()
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
