"""What can be said of one pair by itself."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from rlhf_forge.data.records import Conversation, Pair
from rlhf_forge.inspection.near import NEAR
from rlhf_forge.inspection.words import Worded, jaccard

Checks = dict[str, str]
"""For each code that a pair breaks, the detail that is counted: which marker, which remains."""

BEGIN_TOKENS = ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<BOS_TOKEN>")
END_TOKENS = ("</s>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<eos>", "<end_of_turn>")
MARKERS = (
    *("[INST]", "[/INST]", "<|im_start|>", "<|start_header_id|>", "<start_of_turn>"),
    *("<|user|>", "<|assistant|>", "<|system|>", "<<SYS>>", "### Instruction:", "### Response:"),
    *("\nHuman:", "\nAssistant:", "\nUSER:", "\nASSISTANT:"),
)
BROKEN = re.compile(
    "\ufffd|[\x00-\x08\x0b\x0e-\x1f\x7f]|[\u202a-\u202e\u2066-\u2069]"
    r"|&(?:amp|lt|gt|quot|nbsp|#\d+);|<br\s*/?>"
)
MACHINE_TEXTS = (
    *("internal server error", "rate limit exceeded", "bad gateway", "request timed out"),
    *("traceback (most recent call last)", "maximum context length", "content management policy"),
    *("trained by openai", "developed by openai", "i'm chatgpt", "i am chatgpt"),
    *("developed by anthropic", "created by anthropic", "trained by google", "as an ai language"),
)
SCORES = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
)


def checks_of(pair: Pair, words: Worded, fields: Mapping[str, Any]) -> Checks:
    """Codes that a pair breaks, each with the detail that is counted.

    Args:
        pair: As it was read.
        words: Its words.
        fields: The row it is of.
    """
    told = {
        code: detail for code, find in FINDERS for detail in (find(pair),) if detail is not None
    }
    if "PREF203" not in told and words.chosen == words.rejected:
        same = text_of(pair.chosen) == text_of(pair.rejected)
        told["PREF201" if same else "PREF204"] = ""
    elif "PREF203" not in told and jaccard(*words.triples[1:]) >= NEAR:
        told["PREF209"] = ""
    if _contradicted(fields):
        told["PREF207"] = ""
    return told


def text_of(answer: Conversation) -> str:
    """What the assistant says in an answer, without the white space around it."""
    return "\n".join(t["content"] for t in answer if t["role"] == "assistant").strip()


def _empty_answer(pair: Pair) -> str | None:
    empty = [name for name in ("chosen", "rejected") if not text_of(getattr(pair, name))]
    return " and ".join(empty) or None


def _empty_prompt(pair: Pair) -> str | None:
    return "" if pair.prompt and not any(t["content"].strip() for t in pair.prompt) else None


def _not_alternating(pair: Pair) -> str | None:
    roles = [turn["role"] for turn in pair.prompt if turn["role"] not in {"system", "tool"}]
    same = next((one for one, two in pairwise(roles) if one == two), None)
    return None if same is None else f"two turns of {same}"


def _repeating(pair: Pair) -> str | None:
    said = {" ".join(t["content"].casefold().split()): t["role"] for t in pair.prompt}
    for answer in (pair.chosen, pair.rejected):
        text = " ".join(text_of(answer).casefold().split())
        if text and text in said:
            return f"a turn of {said[text]}"
    return None


def _broken(pair: Pair) -> str | None:
    match = BROKEN.search("\n".join(_texts(pair)))
    if match is None:
        return None
    found = match.group()
    return found if found[0] in "&<" else f"U+{ord(found):04X}"


def _machine_text(pair: Pair) -> str | None:
    answers = f"{text_of(pair.chosen)}\n{text_of(pair.rejected)}".casefold()
    return next((text for text in MACHINE_TEXTS if text in answers), None)


def _marked(pair: Pair) -> str | None:
    # A line break before each text: some markers are ones only where a line begins.
    whole = "".join(f"\n{text}" for text in _texts(pair))
    if not any(marker in whole for marker in (*MARKERS, *END_TOKENS)):
        return None
    inner = "".join(f"\n{without_end_token(text)}" for text in _texts(pair))
    return next((m.strip() for m in (*MARKERS, *END_TOKENS) if m in inner), None)


def _begun(pair: Pair) -> str | None:
    for text in _texts(pair):
        begin = text.lstrip()
        if begin.startswith(BEGIN_TOKENS):
            return next(token for token in BEGIN_TOKENS if begin.startswith(token))
    return None


def without_end_token(text: str) -> str:
    """The text without an end token that was typed behind it."""
    text = text.rstrip()
    end = next((token for token in END_TOKENS if text.endswith(token)), "")
    return text.removesuffix(end)


def _contradicted(fields: Mapping[str, Any]) -> bool:
    for keys in SCORES:
        scores = [fields.get(key) for key in keys]
        if all(isinstance(s, int | float) and math.isfinite(s) for s in scores):
            return float(scores[0] or 0) <= float(scores[1] or 0)
    return False


def _texts(pair: Pair) -> Iterator[str]:
    for conversation in (pair.prompt, pair.chosen, pair.rejected):
        for turn in conversation:
            yield turn["content"]


FINDERS: tuple[tuple[str, Callable[[Pair], str | None]], ...] = (
    ("PREF104", _not_alternating),
    ("PREF105", _broken),
    ("PREF203", _empty_answer),
    ("PREF206", _empty_prompt),
    ("PREF208", _machine_text),
    ("PREF210", _repeating),
    ("PREF501", _marked),
    ("PREF502", _begun),
)
