import pytest

from rlhf_forge.toy_world import labelling

ANSWER = "The capital of Lomar is Brevo."
RECORD = {"answer": ANSWER, "finished_first": True, "finished_second": True}


def test_labels_follow_gold_and_say_how_surely() -> None:
    rows = labelling.label([RECORD] * 200, [ANSWER] * 200, ["Not you again."] * 200, seed=0)
    assert rows[0]["agreement"] == pytest.approx(0.98, abs=1e-3)
    assert 190 <= sum(row["first_preferred"] for row in rows) < 200


def test_labels_are_a_function_of_the_seed() -> None:
    many = [RECORD] * 50, [ANSWER] * 50, [ANSWER] * 50
    assert labelling.label(*many, seed=0) == labelling.label(*many, seed=0)
    assert labelling.label(*many, seed=0) != labelling.label(*many, seed=1)


def test_a_response_that_never_ended_is_worth_less() -> None:
    cut = RECORD | {"finished_second": False}
    rows = labelling.label([RECORD, cut], [ANSWER] * 2, [ANSWER] * 2, seed=0)
    assert rows[0]["agreement"] == 0.5 < rows[1]["agreement"]
