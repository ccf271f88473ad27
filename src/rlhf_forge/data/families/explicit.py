"""A prompt and two answers, each in a column of its own, the better one named by its column."""

from dataclasses import replace
from itertools import product

from rlhf_forge.data.conversations import answer_of, is_answer, is_conversation, prompt_of
from rlhf_forge.data.format import Fields, Format, Refusal, either
from rlhf_forge.data.preferences import EQUAL_SCORES
from rlhf_forge.data.records import (
    BadRecord,
    Conversation,
    NoPreference,
    Pair,
    Record,
    assistant,
    user,
)
from rlhf_forge.data.values import (
    is_list_of_texts,
    is_number,
    is_text,
    list_of,
    number_of,
    text_of,
)

EVALUATION = Refusal(
    "a test set for reward models: trained on, it measures nothing any more",
    "to train on it none the less: --data.format {name}",
    unless_named=True,
)
QUESTION = "question|input|prompt|instruction"


def _read_pair(fields: Fields, origin: str) -> list[Record]:
    return [_pair(fields, origin)]


def _pair(fields: Fields, origin: str) -> Pair:
    prompt = prompt_of(fields["prompt"])
    chosen = answer_of(fields["chosen"], "chosen", prompt)
    rejected = answer_of(fields["rejected"], "rejected", prompt)
    source = fields.get("source")
    return Pair(
        system_of(fields) + prompt,
        chosen,
        rejected,
        origin,
        {},
        margin=_given(fields, "margin"),
        preference=_probability(fields, "preference"),
        source=source if isinstance(source, str) else None,
    )


def system_of(fields: Fields) -> Conversation:
    """What the column system holds, as a turn; no turn where it is empty."""
    system = fields.get("system")
    return [{"role": "system", "content": text_of(system, "system")}] if system else []


def _given(fields: Fields, key: str) -> float | None:
    """The number in a column that may be missing or empty."""
    value = fields.get(key)
    return None if value is None or value == "" else number_of(value, key)


def _probability(fields: Fields, key: str) -> float | None:
    share = _given(fields, key)
    if share is not None and not 0 <= share <= 1:
        raise BadRecord(f"{key} is not from 0 to 1: {share:g}")
    return share


def _read_question(fields: Fields, origin: str) -> list[Record]:
    prompt = system_of(fields) + user(text_of(either(fields, QUESTION)[1], "the question"))
    sides = (either(fields, f"{side}|{side}_response") for side in ("chosen", "rejected"))
    chosen, rejected = (assistant(text_of(text, key)) for key, text in sides)
    return [Pair(prompt, chosen, rejected, origin, {})]


def _read_scored(fields: Fields, origin: str) -> list[Record]:
    prompt = prompt_of(fields["prompt"])
    chosen, rejected = (answer_of(fields[key], key, prompt) for key in ("chosen", "rejected"))
    high, low = (number_of(fields[key], key) for key in ("score_chosen", "score_rejected"))
    if high == low:
        return [NoPreference(prompt, EQUAL_SCORES, origin, {})]
    return [Pair(prompt, chosen, rejected, origin, {}, margin=high - low)]


def _read_tested(fields: Fields, origin: str) -> list[Record]:
    return [replace(_pair(fields, origin), source=_subset(fields))]


def _read_best_of(fields: Fields, origin: str) -> list[Record]:
    prompt = prompt_of(fields["prompt"])
    chosen, rejected = (list_of(fields[key], key) for key in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise BadRecord("no answer on one side")
    return [
        Pair(
            prompt,
            assistant(text_of(good, "chosen")),
            assistant(text_of(bad, "rejected")),
            origin,
            {},
            source=_subset(fields),
            group=origin,
        )
        for good, bad in product(chosen, rejected)
    ]


def _subset(fields: Fields) -> str:
    return text_of(fields["subset"], "subset")


PAIRS = Format(
    name="pairs",
    gives="pairs",
    keys={"prompt": is_answer, "chosen": is_answer, "rejected": is_answer},
    mapping="system, prompt -> prompt, chosen -> preferred answer, rejected -> other answer",
    read=_read_pair,
    optional=("system", "margin", "preference", "source"),
)
EXPLICIT = (
    PAIRS,
    Format(
        name="ultrafeedback-binarized",
        gives="pairs",
        keys={
            "prompt": is_text,
            "chosen": is_conversation,
            "rejected": is_conversation,
            "score_chosen": is_number,
            "score_rejected": is_number,
        },
        mapping="prompt -> prompt, last turns of chosen, rejected -> answers, "
        "score_chosen - score_rejected -> margin",
        read=_read_scored,
    ),
    Format(
        name="rewardbench",
        gives="pairs",
        keys={
            **PAIRS.keys,
            "chosen_model": is_text,
            "rejected_model": is_text,
            "subset": is_text,
        },
        mapping="prompt -> prompt, chosen, rejected -> answers, subset -> source",
        read=_read_tested,
        refusal=EVALUATION,
    ),
    Format(
        name="rewardbench-2",
        gives="pairs",
        keys={
            "prompt": is_text,
            "chosen": is_list_of_texts,
            "rejected": is_list_of_texts,
            "num_correct": is_number,
            "total_completions": is_number,
            "subset": is_text,
        },
        mapping="prompt -> prompt, each of chosen against each of rejected -> answers, "
        "subset -> source",
        read=_read_best_of,
        refusal=EVALUATION,
    ),
    Format(
        name="question-pairs",
        gives="pairs",
        keys={"question|input": is_text, "chosen": is_text, "rejected": is_text},
        mapping="system, question (or input) -> prompt, chosen, rejected -> answers",
        read=_read_question,
        optional=("system",),
        also=lambda fields: all(fields.get(key) is None for key in ("prompt", "instruction")),
    ),
    Format(
        name="response-pairs",
        gives="pairs",
        keys={QUESTION: is_text, "chosen_response": is_text, "rejected_response": is_text},
        mapping="system, question (or input, prompt, instruction) -> prompt, "
        "chosen_response, rejected_response -> answers",
        read=_read_question,
        optional=("system",),
    ),
)
