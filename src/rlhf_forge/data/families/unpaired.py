"""Single answers or steps marked good or bad: told by name, so that they pass for nothing else."""

from typing import Any

from rlhf_forge.data.conversations import is_answer, is_conversation
from rlhf_forge.data.format import Format, Refusal, nothing
from rlhf_forge.data.values import is_list, is_list_of_texts

UNPAIRED_FEEDBACK = Refusal(
    "unpaired feedback (answers marked good or bad one by one), from which no stage here learns",
    "for demonstrations write the good ones to a file of their own, without the mark",
)


def _is_mark(value: Any) -> bool:
    return isinstance(value, bool)


def _are_marks(value: Any) -> bool:
    return is_list(value) and all(map(_is_mark, value))


UNPAIRED = (
    Format(
        name="unpaired",
        gives="pairs",
        keys={"prompt": is_answer, "completion": is_answer, "label": _is_mark},
        mapping="",
        read=nothing,
        refusal=UNPAIRED_FEEDBACK,
    ),
    Format(
        name="unpaired-conversations",
        gives="pairs",
        keys={"conversations|messages": is_conversation, "kto_tag": _is_mark},
        mapping="",
        read=nothing,
        refusal=UNPAIRED_FEEDBACK,
    ),
    Format(
        name="stepwise",
        gives="pairs",
        keys={"prompt": is_answer, "completions": is_list_of_texts, "labels": _are_marks},
        mapping="",
        read=nothing,
        refusal=Refusal(
            "stepwise supervision (steps of one answer marked right or wrong), and no answers to "
            "compare",
            "no stage here trains a process reward model",
        ),
    ),
)
