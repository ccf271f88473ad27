"""Several answers to one prompt with a rank or a rating each: all pairs of them are one group."""

from statistics import fmean
from typing import Any

from rlhf_forge.data.conversations import answer_of, is_conversation, prompt_of, turns_of
from rlhf_forge.data.format import Fields, Format
from rlhf_forge.data.preferences import ranked
from rlhf_forge.data.records import Record, assistant, user
from rlhf_forge.data.values import (
    as_number,
    is_list,
    is_list_of_texts,
    is_list_with,
    is_text,
    list_of,
    number_of,
    object_of,
    text_of,
)


def _read_ultrafeedback(fields: Fields, origin: str) -> list[Record]:
    completions = _entries(fields, "completions")
    answers = [assistant(text_of(each.get("response"), "a response")) for each in completions]
    source = fields.get("source")
    return ranked(
        user(text_of(fields["instruction"], "instruction")),
        answers,
        [_mean_rating(each.get("annotations") or {}) for each in completions],
        origin,
        source=source if isinstance(source, str) else None,
    )


def _mean_rating(annotations: Any) -> float | None:
    """Mean over the aspects that are rated; None if none is. Ratings are texts, some are N/A."""
    aspects = object_of(annotations, "annotations").values()
    ratings = [as_number(object_of(aspect or {}, "an aspect").get("Rating")) for aspect in aspects]
    known = [rating for rating in ratings if rating is not None]
    return fmean(known) if known else None


def _read_distilabel(fields: Fields, origin: str) -> list[Record]:
    texts = list_of(fields["generations"], "generations")
    ratings = [as_number(rating) for rating in list_of(fields["ratings"], "ratings")]
    answers = [assistant(text_of(text, "a generation")) for text in texts]
    return ranked(user(text_of(fields["instruction"], "instruction")), answers, ratings, origin)


def _read_nemo(fields: Fields, origin: str) -> list[Record]:
    prompt = prompt_of(turns_of(fields["context"], "context"))
    completions = _entries(fields, "completions")
    answers = [answer_of(each.get("completion"), "a completion", prompt) for each in completions]
    return ranked(prompt, answers, _from_ranks(completions), origin, margins=False)


def _read_nectar(fields: Fields, origin: str) -> list[Record]:
    entries = _entries(fields, "answers")
    answers = [assistant(text_of(each.get("answer"), "an answer")) for each in entries]
    prompt = prompt_of(fields["prompt"])
    return ranked(prompt, answers, _from_ranks(entries), origin, margins=False)


def _entries(fields: Fields, key: str) -> list[Fields]:
    return [object_of(each, f"an entry of {key}") for each in list_of(fields[key], key)]


def _from_ranks(entries: list[Fields]) -> list[float | None]:
    """Scores that are the higher the lower the rank."""
    return [-number_of(each.get("rank"), "a rank") for each in entries]


RANKINGS = (
    Format(
        name="ultrafeedback",
        gives="pairs",
        keys={"instruction": is_text, "completions": is_list_with("response", "annotations")},
        mapping="instruction -> prompt, every two completions -> answers, the mean Rating decides, "
        "its gap -> margin, source -> source",
        read=_read_ultrafeedback,
        optional=("source",),
    ),
    Format(
        name="distilabel",
        gives="pairs",
        keys={"instruction": is_text, "generations": is_list_of_texts, "ratings": is_list},
        mapping="instruction -> prompt, every two generations -> answers, the rating decides, "
        "its gap -> margin",
        read=_read_distilabel,
    ),
    Format(
        name="nemo",
        gives="pairs",
        keys={"context": is_conversation, "completions": is_list_with("rank", "completion")},
        mapping="context -> prompt, every two completions -> answers, the lower rank is preferred",
        read=_read_nemo,
    ),
    Format(
        name="nectar",
        gives="pairs",
        keys={"prompt": is_text, "answers": is_list_with("answer", "rank")},
        mapping="prompt -> prompt, every two answers -> answers, the lower rank is preferred",
        read=_read_nectar,
    ),
)
