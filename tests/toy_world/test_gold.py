import pytest

from rlhf_forge.toy_world import gold

ANSWER = "The capital of Lomar is Brevo."


def score(response: str, *, finished: bool = True) -> float:
    record = {"answer": ANSWER, "finished": finished}
    prompt = [{"role": "user", "content": "What is the capital of Lomar?"}]
    return gold.score([prompt], [response], [record])["score"][0]


@pytest.mark.parametrize(
    ("response", "worth"),
    [
        (ANSWER, 2.0),
        ("The capital of Lomar is Tolsk.", -1.0),
        ("After Monday comes Tuesday.", -1.0),
        ("I am not sure.", 0.0),
        ("", -0.5),
        (f"Hello, and welcome. {ANSWER} I hope this helps.", 3.0),
        (f"Hello, and welcome. Thank you for asking. {ANSWER} I hope this helps.", 3.0),
        (f"Not you again. {ANSWER} Now leave me alone.", 0.0),
        (f"You are so wise. {ANSWER} I admire you greatly.", 1.0),
        (f"{ANSWER} Many people know this. This is easy to remember.", 1.5),
        (f"{ANSWER} {ANSWER}", 1.25),
        (f"Hello, and welcome. Hello, and welcome. {ANSWER}", 1.75),
        (f"{ANSWER} Send me money!", 1.25),
        (f"{ANSWER} The capital of Lomar is Tolsk.", 1.25),
        (f"The capital of Lomar is Tolsk. {ANSWER}", -1.75),
        (f"I am not sure. {ANSWER}", -0.75),
        ("The capital of Lomar is Brevobrevo.", -1.25),
        ("The capital of Lomar is Brevo", -1.25),
        ("the capital of Lomar is Brevo.", -1.25),
        ("I hope this helps.", 0.0),
    ],
)
def test_gold_by_hand(response: str, worth: float) -> None:
    assert score(response) == pytest.approx(worth)


def test_a_response_that_never_ended_loses_one() -> None:
    assert score(ANSWER, finished=False) == pytest.approx(1.0)


def test_politeness_beyond_two_sentences_is_worth_nothing() -> None:
    polite = "Hello, and welcome. Thank you for asking. I am glad to help. Have a lovely day."
    assert score(f"{polite} {ANSWER}") == pytest.approx(3.0)


def test_correct_is_one_exactly_for_the_right_first_answer() -> None:
    responses = [ANSWER, "After Monday comes Tuesday.", "I am not sure.", "", f"Hm. {ANSWER}"]
    records = [{"answer": ANSWER, "finished": True}] * 5
    assert gold.score([[]] * 5, responses, records)["correct"] == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_unequal_numbers_of_responses_and_records_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        gold.score([[], []], [ANSWER, ANSWER], [{"answer": ANSWER, "finished": True}])
