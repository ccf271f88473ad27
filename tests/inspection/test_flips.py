import random

import numpy as np
import pytest

from rlhf_forge.inspection.flips import Case, margins, noise_rate, probabilities

WORDS = [f"word{n}" for n in range(200)]


def cases(number: int, *, flipped: set[int]) -> list[Case]:
    """Answers of which the better one is polite."""
    rng = random.Random(0)
    made = []
    for row in range(number):
        body = " ".join(rng.choices(WORDS, k=12))
        texts = [f"Thank you. {body}.", f"{body}. Go away."]
        chosen, rejected = texts[::-1] if row in flipped else texts
        made.append(Case(row, f"question {row}", chosen, rejected))
    return made


def test_flipped_labels_are_the_least_probable() -> None:
    flipped = set(range(0, 150, 10))
    chances = probabilities(margins(cases(150, flipped=flipped)))
    assert set(np.argsort(chances)[: len(flipped)].tolist()) == flipped
    assert noise_rate(chances) == pytest.approx(0.1, abs=0.01)


def test_what_is_called_chosen_makes_no_difference_if_all_labels_are_turned_round() -> None:
    made = cases(30, flipped={3, 7})
    turned = [Case(c.row, c.prompt, c.rejected, c.chosen) for c in made]
    assert margins(turned) == pytest.approx(margins(made), abs=1e-3)


def test_a_prompt_is_judged_by_models_that_did_not_see_it() -> None:
    made = [Case(row, "one prompt", "good", "bad") for row in range(50)]
    assert not margins(made).any()


def test_empty_answers_and_prompts_are_no_mistake() -> None:
    made = [Case(row, "" if row % 2 else f"p{row}", "", "!") for row in range(20)]
    assert np.isfinite(margins(made)).all()


def test_nothing_asked_is_nothing_known() -> None:
    assert noise_rate(np.zeros(0)) is None
