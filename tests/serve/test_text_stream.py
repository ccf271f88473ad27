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


def stopped(text: str, *stops: str, trim: bool = True) -> tuple[list[str], bool]:
    """Pieces of a text that ends at a stop string, and whether one was met."""
    stream = TextStream(mistral_template(), stops, trim=trim)
    tokens = mistral_template().tokenizer.encode(text, add_special_tokens=False)
    pieces = []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces, True
    return [*pieces, stream.rest()], False


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one END two", ["END"], "one"),
        ("one END two", ["two", "END"], "one"),
        ("ENENDING", ["END"], "EN"),
        ("a\n\nb", ["\n\n"], "a"),
        ("END", ["END"], ""),
        ("Grüße, 世界! 🦊", ["界"], "Grüße, 世"),
    ],
)
def test_the_text_ends_before_the_first_stop_string(
    text: str, stops: list[str], expected: str
) -> None:
    pieces, met = stopped(text, *stops)
    assert met
    assert "".join(pieces) == expected


def test_what_only_begins_like_a_stop_string_is_text() -> None:
    pieces, met = stopped("one EN", "END")
    assert not met
    assert "".join(pieces) == "one EN"


@given(st.text("abEND", max_size=20), st.lists(st.text("abEND", min_size=1), max_size=3))
def test_no_piece_holds_a_part_of_the_stop_string_that_comes(text: str, stops: list[str]) -> None:
    # Of a stop string within another the one that is complete first counts.
    stops = [stop for stop in stops if not any(o in stop for o in stops if o != stop)]
    pieces, met = stopped(text, *stops, trim=False)
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert met == bool(places)
    assert "".join(pieces) == text[: min(places, default=len(text))]


def test_text_that_is_gone_on_with_keeps_its_white_space() -> None:
    stream = TextStream(mistral_template(), trim=False)
    tokens = mistral_template().tokenizer.encode("  a \n", add_special_tokens=False)
    assert "".join([*map(stream.push, tokens), stream.rest()]) == "  a \n"
