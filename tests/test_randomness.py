import pytest

from rlhf_forge.randomness import generator


def drawn(*args: object) -> list[float]:
    return list(generator(*args).random(4))  # type: ignore[arg-type]


def test_the_same_arguments_draw_the_same() -> None:
    assert drawn(3, "sample", 1, 2) == drawn(3, "sample", 1, 2)


@pytest.mark.parametrize(
    "other",
    [
        (3, "sample", 1, 0),
        (3, "sample", 1, 0, 0),
        (3, "sample", 0, 1),
        (3, "sample"),
        (3, "shuffle", 1),
        (4, "sample", 1),
        (3 + 2**32, "sample", 1),
    ],
)
def test_another_purpose_seed_or_number_draws_something_else(other: tuple[object, ...]) -> None:
    assert drawn(3, "sample", 1) != drawn(*other)


@pytest.mark.parametrize("number", [-1, 2**32])
def test_numbers_that_would_overlap_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="numbers"):
        generator(0, "sample", number)
