"""What our own commands say of a command line that does not fit."""

from typing import Literal

import pytest

from rlhf_forge.errors import UserError
from rlhf_forge.parsing import nearest_key, parsed_call

CALLS: list[object] = []


def command(
    paths: list[str],
    number: int = 3,
    mode: Literal["slow", "fast"] = "slow",
    loud: bool = False,
    name: str | None = None,
) -> int:
    """Do it.

    Args:
        paths: Of things.
        number: Of times.
        mode: How.
        loud: Whether.
        name: Of it.
    """
    CALLS.append((paths, number, mode, loud, name))
    return 1 if loud else 0


def refusal(*arguments: str) -> tuple[str, str | None]:
    with pytest.raises(UserError) as caught:
        parsed_call(command, arguments, "command")
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.hint


def test_a_call_gets_what_was_typed_and_gives_its_status() -> None:
    assert parsed_call(command, ["a", "b c", "--number", "5", "--mode=fast"], "command") == 0
    assert CALLS.pop() == (["a", "b c"], 5, "fast", False, None)
    assert parsed_call(command, ["a", "--loud", "true"], "command") == 1


def test_a_flag_with_nothing_behind_it_is_true() -> None:
    for arguments in (["a", "--loud"], ["a", "--loud", "--number", "2"], ["--loud=true", "a"]):
        assert parsed_call(command, arguments, "command") == 1
    assert parsed_call(command, ["a", "--loud=false"], "command") == 0


def two_words(data_seed: int = 0) -> int:
    """Do it.

    Args:
        data_seed: Of the data.
    """
    return data_seed


def test_a_key_of_two_words_may_be_typed_with_a_dash() -> None:
    assert parsed_call(two_words, ["--data-seed", "3"], "command") == 3
    assert parsed_call(two_words, ["--data-seed=4"], "command") == 4
    assert parsed_call(two_words, ["--data_seed=5"], "command") == 5


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["a", "--numbr", "3"], "numbr: no such key", "did you mean number?"),
        (["a", "--num", "3"], "num: no such key", "did you mean number?"),
        (["a", "--number", "many"], "number: must be a whole number, got many", None),
        (["a", "--mode", "quick"], "mode: must be one of slow, fast, got quick", None),
        (["a", "--loud", "perhaps"], "loud: must be true or false, got perhaps", None),
        (["a", "--number"], "number: needs a value behind it", None),
        ([], "paths: needed, and not given", None),
    ],
)
def test_what_does_not_fit_is_one_line(arguments: list[str], error: str, hint: str | None) -> None:
    assert refusal(*arguments) == (error, hint)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("a.b.lenght", "a.b.length"),
        ("a.length", "a.lengths"),
        ("length", "a.b.length"),
        ("b.zebra", None),
    ],
)
def test_the_nearest_key_is_one_beside_it_before_one_elsewhere(key: str, near: str | None) -> None:
    assert nearest_key(key, ["a.b.length", "a.lengths", "a.c.width", "b.run"]) == near
