"""What becomes of every vote on its way to training."""

from typing import Any

import pytest

from rlhf_forge.serve.feedback.export import contradictions, rows_of, sorted_out
from tests.serve.feedback.casts import cast_all, comparison, side, thumb, undo


def test_every_vote_is_exported_or_counted_with_its_reason() -> None:
    votes = cast_all(
        comparison(0, "a"),
        comparison(1, "b"),
        comparison(2, "tie"),
        comparison(3, "both_bad"),
        comparison(4, "skip"),
        comparison(5, "a"),
        undo(0, of=5),
        comparison(6, "a", seconds_to_vote=0),
        comparison(7, "a", a=side("cut", "sft", finish_reason="cut_by_vote")),
        comparison(8, "a", b=side("  ", "ppo")),
        comparison(9, "a", a=side("same", "sft"), b=side("same ", "ppo")),
        comparison(0, "a", id="again"),
        thumb(0),
    )
    found = sorted_out(votes, keep_cut=False)
    assert [vote.id for vote in found.decided] == ["vote-0", "vote-1"]
    assert [vote.choice for vote in found.undecided] == ["tie", "both_bad", "skip"]
    assert found.left_out == {
        "undone": 1,
        "flagged too_fast": 1,
        "flagged cut_by_vote": 1,
        "an empty answer": 1,
        "both answers are the same": 1,
        "repeats, for self-consistency": 1,
        "single answers with a thumb": 1,
    }
    everything = len(found.decided) + len(found.undecided) + found.left_out.total()
    assert everything == len(votes) - 1  # a vote and its undo are one thing
    assert "vote-7" in {vote.id for vote in sorted_out(votes, keep_cut=True).decided}


def test_people_who_contradict_each_other_are_counted() -> None:
    votes = cast_all(comparison(0, "a"), comparison(0, "b", id="x", annotator="Bob"))
    assert contradictions(sorted_out(votes, keep_cut=False).decided) == 1


ROWS: dict[str, dict[str, Any]] = {
    "trl": {
        "prompt": [{"role": "user", "content": "What is 0?"}],
        "chosen": [{"role": "assistant", "content": "It is 0, I think."}],
        "rejected": [{"role": "assistant", "content": "It is 0."}],
        "margin": 2,
        "source": "api",
        "models": ["sft", "ppo"],
        "annotator": "Ada",
        "vote_id": "vote-0",
    },
    "openai": {
        "input": {
            "messages": [{"role": "user", "content": "What is 0?"}],
            "tools": [],
            "parallel_tool_calls": True,
        },
        "preferred_output": [{"role": "assistant", "content": "It is 0, I think."}],
        "non_preferred_output": [{"role": "assistant", "content": "It is 0."}],
    },
    "arena": {
        "question_id": "vote-0",
        "model_a": "sft",
        "model_b": "ppo",
        "winner": "model_b",
        "judge": "Ada",
        "conversation_a": [
            {"role": "user", "content": "What is 0?"},
            {"role": "assistant", "content": "It is 0."},
        ],
        "conversation_b": [
            {"role": "user", "content": "What is 0?"},
            {"role": "assistant", "content": "It is 0, I think."},
        ],
        "turn": 1,
        "anony": True,
    },
}


@pytest.mark.parametrize("form", ROWS)
def test_a_line_is_as_its_format_has_it(form: Any) -> None:
    [decided], [undecided] = rows_of(
        sorted_out(
            cast_all(comparison(0, "b", strength=2), comparison(1, "both_bad")), keep_cut=False
        ),
        form,
    )
    decided.pop("tstamp", None)
    assert decided == ROWS[form]
    assert undecided["winner" if form == "arena" else "choice"] in {"tie (bothbad)", "both_bad"}
