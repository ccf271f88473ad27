"""Pieces of text from tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_forge.serve.text_stream import TextStream
from tests.tiny_tokenizer import mistral_template


def pieces_of(tokens: list[int]) -> list[str]:
    stream = TextStream(mistral_template())
    return [*map(stream.push, tokens), stream.rest()]


@given(st.lists(st.integers(0, len(mistral_template().tokenizer) - 1), max_size=40))
def test_the_pieces_add_up_to_the_decoded_text(tokens: list[int]) -> None:
    assert "".join(pieces_of(tokens)) == mistral_template().decode(tokens)


@pytest.mark.parametrize("text", ["🦊", "Grüße, 世界!", "a 🦊\n\nb"])
def test_no_piece_holds_part_of_a_character(text: str) -> None:
    tokens = mistral_template().tokenizer.encode(text, add_special_tokens=False)
    pieces = pieces_of(tokens)
    assert "�" not in "".join(pieces)
    assert "".join(pieces) == text


def test_white_space_waits_for_what_follows() -> None:
    tokens = mistral_template().tokenizer.encode("a  \n b", add_special_tokens=False)
    pieces = [piece for piece in pieces_of(tokens) if piece]
    assert pieces[0] == "a"
    assert not any(piece.endswith((" ", "\n")) for piece in pieces)


def test_bytes_that_never_become_a_character_come_at_the_end() -> None:
    first_byte = mistral_template().tokenizer.encode("🦊", add_special_tokens=False)[0]
    assert pieces_of([first_byte])[0] == ""
    assert pieces_of([first_byte])[1] == "�"
