"""What speaks against a vote, written down while it is cast."""

import re
from collections.abc import Sequence

from rlhf_forge.serve.feedback.votes import CUT, Side

# Reading is slower than this, skimming included.
FASTEST_WORDS_PER_SECOND = 20.0
LEAST_SECONDS = 1.0
# Names of models that are ordinary words: an answer that has them gives nothing away.
ORDINARY = {"base", "reward", "model", "policy"}
SAYS_WHO_IT_IS = re.compile(
    r"\b(?:openai|chatgpt|gpt-?[345]\w*|anthropic|claude|google ai|gemini|deepmind|meta ai|"
    r"llama-?\d|mistral ai|mistral-?\d\w*|mixtral|qwen|deepseek|vicuna|"
    r"(?:language model|assistant) (?:trained|made|developed|created) by)\b",
    re.IGNORECASE,
)
IS_AN_ERROR = re.compile(
    r"^\W*(?:network error|internal server error|the server failed|error(?: code)?: ?\d|"
    r"error_code|upstream|rate limit|cuda out of memory)",
    re.IGNORECASE,
)


def flags_of(
    sides: Sequence[Side], *, blind: bool, choice: str, seconds_to_vote: float | None
) -> tuple[str, ...]:
    """The flags of a comparison, in alphabetical order.

    ``cut_by_vote``: an answer was cut off by the vote. ``error_text``: an answer is an error
    message. ``identity_leak``: an answer says which model it is, while that was to be hidden.
    ``too_fast``: chosen faster than the answers can be skimmed; a skip may be.
    """
    words = sum(len(side.text.split()) for side in sides)
    least = max(LEAST_SECONDS, words / FASTEST_WORDS_PER_SECOND)
    found = {
        CUT: any(side.finish_reason == CUT for side in sides),
        "error_text": any(map(_is_error, sides)),
        "identity_leak": blind and any(_leaks(side, sides) for side in sides),
        "too_fast": choice != "skip" and seconds_to_vote is not None and seconds_to_vote < least,
    }
    return tuple(name for name, is_so in found.items() if is_so)


def _is_error(side: Side) -> bool:
    return side.finish_reason == "error" or IS_AN_ERROR.match(side.text) is not None


def _leaks(side: Side, sides: Sequence[Side]) -> bool:
    names = {s.model.lower() for s in sides} - ORDINARY - {""}
    own = any(re.search(rf"(?<!\w){re.escape(n)}(?!\w)", side.text.lower()) for n in names)
    return own or SAYS_WHO_IT_IS.search(side.text) is not None
