"""Two answers in no order, and a label, a strength or an index that names the better one."""

from collections.abc import Sequence
from typing import Any

from rlhf_forge.data.conversations import is_conversation, prompt_of, turns_of
from rlhf_forge.data.format import Fields, Format
from rlhf_forge.data.preferences import Verdict, Winner, compared, counted, signed
from rlhf_forge.data.records import BadRecord, Conversation, Record, assistant, user
from rlhf_forge.data.values import (
    as_number,
    is_list_with,
    is_number,
    is_object,
    is_text,
    list_of,
    number_of,
    object_of,
    text_of,
)

TWO_LABELS = (
    "--data.map.label=better_response_id (the more helpful answer wins) or "
    "--data.map.label=safer_response_id (the safer one)"
)


def _answers(fields: Fields, first: str, second: str) -> tuple[Conversation, Conversation]:
    return assistant(text_of(fields[first], first)), assistant(text_of(fields[second], second))


def _by_index(value: Any, key: str) -> Verdict:
    """Of the number of the better answer, 0 or 1."""
    index = number_of(value, key)
    if index not in {0, 1}:
        raise BadRecord(f"{key} is neither 0 nor 1: {index:g}")
    return Verdict("first" if index == 0 else "second")


def _read_helpsteer2(fields: Fields, origin: str) -> list[Record]:
    verdict = signed(number_of(fields["preference_strength"], "preference_strength"))
    answers = _answers(fields, "response_1", "response_2")
    return compared(prompt_of(fields["prompt"]), answers, verdict, origin)


def _read_helpsteer3(fields: Fields, origin: str) -> list[Record]:
    strength = number_of(fields["overall_preference"], "overall_preference")
    share = _share(fields.get("individual_preference") or [], strength)
    answers = _answers(fields, "response1", "response2")
    domain = fields.get("domain")
    return compared(
        prompt_of(turns_of(fields["context"], "context")),
        answers,
        signed(strength, share),
        origin,
        source=domain if isinstance(domain, str) else None,
    )


def _share(opinions: Any, strength: float) -> float | None:
    """Share of the annotators that side with ``strength``; None if there is but one."""
    scores = [
        number_of(object_of(opinion, "individual_preference").get("score"), "a score")
        for opinion in list_of(opinions, "individual_preference")
    ]
    votes: Sequence[Winner | None] = [signed(score).winner for score in scores]
    found = counted(votes)
    if found.preference is None:
        return None if len(votes) < 2 else 0.5
    # The overall label is a judgement of its own: the annotators may lean the other way.
    return found.preference if found.winner == signed(strength).winner else 1 - found.preference


def _read_shp(fields: Fields, origin: str) -> list[Record]:
    label = _by_index(fields["labels"], "labels")
    ratio = fields.get("score_ratio")
    # 1 stands for A.
    verdict = Verdict(
        "second" if label.winner == "first" else "first",
        margin=None if ratio is None else number_of(ratio, "score_ratio"),
    )
    domain = fields.get("domain")
    return compared(
        user(text_of(fields["history"], "history")),
        _answers(fields, "human_ref_A", "human_ref_B"),
        verdict,
        origin,
        source=domain if isinstance(domain, str) else None,
    )


def _read_saferlhf(fields: Fields, origin: str) -> list[Record]:
    label = fields.get("label")
    verdict = Verdict(None, "no label") if label is None else _by_index(label, "label")
    answers = _answers(fields, "response_0", "response_1")
    return compared(prompt_of(fields["prompt"]), answers, verdict, origin)


def _read_summaries(fields: Fields, origin: str) -> list[Record]:
    info = object_of(fields["info"], "info")
    summaries = list_of(fields["summaries"], "summaries")
    if len(summaries) != 2:
        raise BadRecord(f"not two summaries: {len(summaries)}")
    texts = (text_of(object_of(s, "a summary").get("text"), "a summary") for s in summaries)
    first, second = map(assistant, texts)
    subreddit = info.get("subreddit")
    return compared(
        user(_post(info)),
        (first, second),
        _by_index(fields["choice"], "choice"),
        origin,
        source=subreddit if isinstance(subreddit, str) else None,
    )


def _post(info: Fields) -> str:
    """The post as Stiennon et al. 2020, https://arxiv.org/abs/2009.01325, give it to a model."""
    lines = [
        f"{head}{text_of(info[key], key)}"
        for key, head in (("subreddit", "SUBREDDIT: r/"), ("title", "TITLE: "))
        if info.get(key)
    ]
    return "\n\n".join([*lines, f"POST: {text_of(info.get('post'), 'info.post')}", "TL;DR:"])


def _is_index(value: Any) -> bool:
    return as_number(value) in {0.0, 1.0}


LABELLED = (
    Format(
        name="helpsteer2",
        gives="pairs",
        keys={
            "prompt": is_text,
            "response_1": is_text,
            "response_2": is_text,
            "preference_strength": is_number,
        },
        mapping="prompt -> prompt, below 0: response_1 is preferred, above 0: response_2, "
        "its size -> margin",
        read=_read_helpsteer2,
    ),
    Format(
        name="helpsteer3",
        gives="pairs",
        keys={
            "context": is_conversation,
            "response1": is_text,
            "response2": is_text,
            "overall_preference": is_number,
        },
        mapping="context -> prompt, below 0: response1 is preferred, above 0: response2, its size "
        "-> margin, share of individual_preference -> preference, domain -> source",
        read=_read_helpsteer3,
        optional=("individual_preference", "domain"),
    ),
    Format(
        name="shp",
        gives="pairs",
        keys={
            "history": is_text,
            "human_ref_A": is_text,
            "human_ref_B": is_text,
            "labels": _is_index,
        },
        mapping="history -> prompt, labels 1: human_ref_A is preferred, 0: human_ref_B, "
        "score_ratio -> margin, domain -> source",
        read=_read_shp,
        optional=("score_ratio", "domain"),
    ),
    Format(
        name="pku-saferlhf",
        gives="pairs",
        keys={
            "prompt": is_text,
            "response_0": is_text,
            "response_1": is_text,
            "better_response_id": _is_index,
            "safer_response_id": _is_index,
        },
        mapping="prompt -> prompt, response_<label> -> preferred answer, the other -> other answer",
        read=_read_saferlhf,
        asked=("label",),
        ask=TWO_LABELS,
    ),
    Format(
        name="summarize-from-feedback",
        gives="pairs",
        keys={"info": is_object, "summaries": is_list_with("text"), "choice": _is_index},
        mapping="info.subreddit, title, post -> prompt, summaries[choice] -> preferred answer, the "
        "other -> other answer, info.subreddit -> source",
        read=_read_summaries,
    ),
)
