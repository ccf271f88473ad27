import pytest
from markupsafe import Markup

from rlhf_forge.pages.escaping import clipped, element, number, shown, visible


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("pay \u202e001\u202c now", "pay ⟨U+202E⟩001⟨U+202C⟩ now"),
        ("\u2066a\u2069\u200f\u061c", "⟨U+2066⟩a⟨U+2069⟩⟨U+200F⟩⟨U+061C⟩"),
        ("zero\u200bwidth\ufeff", "zero⟨U+200B⟩width⟨U+FEFF⟩"),
        ("bell\x07 half\ud83d", "bell⟨U+0007⟩ half⟨U+D83D⟩"),
        ("two\n\tlines", "two\n\tlines"),
        ("👩‍👧 mo\u200cvie", "👩‍👧 mo\u200cvie"),
    ],
)
def test_characters_that_no_one_sees_are_written_out(text: str, written: str) -> None:
    assert visible(text) == written


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (12345.678, "12,346"),
        (1.5e-7, "1.5e-07"),
        (0.0, "0"),
        (float("inf"), "inf"),
    ],
)
def test_a_number_is_short(value: float | bool | None, text: str) -> None:
    assert number(value) == text


def test_markup_stays_and_everything_else_becomes_visible_text() -> None:
    assert shown(Markup("<b>")) == "<b>"
    assert shown("a\u202e") == "a⟨U+202E⟩"
    assert shown(["\u202e"]) == "['\\u202e']"


def test_a_long_text_keeps_its_ends_and_says_how_much_is_gone() -> None:
    assert clipped("abc", 3) == "abc"
    assert clipped("a" * 6 + "b" * 94, 9) == "aaaaaa [... 91 characters ...] bbb"


def test_an_element_escapes_content_and_attributes() -> None:
    made = element("text", "<i>&\u202e", element("tspan", 1), x=1.26, class_='">', y=None)
    assert made == '<text x="1.3" class="&#34;&gt;">&lt;i&gt;&amp;⟨U+202E⟩<tspan>1</tspan></text>'
