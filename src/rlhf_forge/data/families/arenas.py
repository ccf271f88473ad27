"""Battles of two models before a judge, as the arenas publish them and as FastChat logs them."""

from typing import Any

from rlhf_forge.data.conversations import is_conversation, turns_of
from rlhf_forge.data.format import Fields, Format, either
from rlhf_forge.data.preferences import BOTH_BAD, TIE, UNKNOWN_WINNER, Verdict, compared
from rlhf_forge.data.records import BadRecord, Conversation, NoPreference, Record, assistant, user
from rlhf_forge.data.values import (
    as_number,
    is_list,
    is_text,
    list_of,
    object_of,
    text_of,
    unpacked,
)

WINNERS = {
    "model_a": Verdict("first"),
    "model_b": Verdict("second"),
    "tie": Verdict(None, TIE),
    "tie (bothbad)": Verdict(None, BOTH_BAD),
}
VOTES = {
    "leftvote": Verdict("first"),
    "rightvote": Verdict("second"),
    "tievote": Verdict(None, TIE),
    "bothbad_vote": Verdict(None, BOTH_BAD),
}
UNKNOWN = Verdict(None, UNKNOWN_WINNER)
APART = "the conversations differ before their last turn"


def _battle(a: Conversation, b: Conversation, verdict: Verdict, origin: str) -> list[Record]:
    """Two whole conversations: what comes before the last turn is the prompt, if it is one.

    In a battle of several turns each model answers to what it said itself, so no label compares
    the two last answers to one prompt.
    """
    for turns in (a, b):
        if not turns or turns[-1]["role"] != "assistant":
            raise BadRecord("a conversation does not end with an answer")
    if verdict.winner is not None and a[:-1] != b[:-1]:
        verdict = Verdict(None, APART)
    return compared(a[:-1], (a[-1:], b[-1:]), verdict, origin)


def _read_arena(fields: Fields, origin: str) -> list[Record]:
    a, b = (turns_of(unpacked(fields[key]), key) for key in ("conversation_a", "conversation_b"))
    winner = text_of(fields["winner"], "winner").strip().lower()
    return _battle(a, b, WINNERS.get(winner, UNKNOWN), origin)


def _read_kaggle(fields: Fields, origin: str) -> list[Record]:
    prompts = _several(fields["prompt"], "prompt")
    sides = (_several(fields[key], key) for key in ("response_a", "response_b"))
    a, b = (_alternating(prompts, answers) for answers in sides)
    won = [who for who in ("model_a", "model_b", "tie") if _is_set(fields[f"winner_{who}"])]
    return _battle(a, b, WINNERS[won[0]] if len(won) == 1 else UNKNOWN, origin)


def _several(value: Any, key: str) -> list[str]:
    """The texts of a list that is written as JSON inside a text; a plain text is the only one."""
    found = unpacked(value)
    return [text_of(each, key) for each in (found if isinstance(found, list) else [found])]


def _alternating(prompts: list[str], answers: list[str]) -> Conversation:
    if len(prompts) != len(answers):
        raise BadRecord(f"unequal numbers: {len(prompts)} prompts and {len(answers)} responses")
    pairs = zip(prompts, answers, strict=True)
    return [turn for asked, answered in pairs for turn in user(asked) + assistant(answered)]


def _read_log(fields: Fields, origin: str) -> list[Record]:
    kind = text_of(fields["type"], "type")
    if kind not in VOTES:
        # Every message of a chat is logged too.
        return [NoPreference([], f"not a vote but {kind}", origin, {})]
    states = list_of(either(fields, "states|state")[1], "states")
    if len(states) != 2:
        raise BadRecord(f"not two states: {len(states)}")
    a, b = (_logged(object_of(state, "a state")) for state in states)
    return _battle(a, b, VOTES[kind], origin)


def _logged(state: Fields) -> Conversation:
    """Messages are [role, text], the user's first; those before offset are the template's own."""
    messages = list_of(state.get("messages"), "messages")
    start = as_number(state.get("offset") or 0)
    if start is None or any(not isinstance(m, list) or len(m) != 2 for m in messages):
        raise BadRecord("messages are not a list of [role, text]")
    texts = [text_of(text, "a message") for _, text in messages[int(start) :]]
    speak = (user, assistant)
    return [turn for place, text in enumerate(texts) for turn in speak[place % 2](text)]


def _is_turns(value: Any) -> bool:
    return is_conversation(unpacked(value))


def _is_states(value: Any) -> bool:
    return isinstance(value, dict) or (is_list(value) and all(map(_has_messages, value)))


def _has_messages(value: Any) -> bool:
    return isinstance(value, dict) and "messages" in value


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool) or as_number(value) in {0.0, 1.0}


def _is_set(value: Any) -> bool:
    return value is True or as_number(value) == 1


ARENAS = (
    Format(
        name="arena",
        gives="pairs",
        keys={
            "model_a": is_text,
            "model_b": is_text,
            "winner": is_text,
            "conversation_a": _is_turns,
            "conversation_b": _is_turns,
        },
        mapping="all turns but the last -> prompt, last turns -> answers, winner decides",
        read=_read_arena,
    ),
    Format(
        name="arena-55k",
        gives="pairs",
        keys={
            "prompt": is_text,
            "response_a": is_text,
            "response_b": is_text,
            "winner_model_a": _is_flag,
            "winner_model_b": _is_flag,
            "winner_tie": _is_flag,
        },
        mapping="prompt and all responses but the last -> prompt, last responses -> answers, the "
        "winner_ column with a 1 decides",
        read=_read_kaggle,
    ),
    Format(
        name="fastchat-log",
        gives="pairs",
        keys={"tstamp": lambda value: True, "type": is_text, "states|state": _is_states},
        mapping="all messages from offset but the last -> prompt, last messages -> answers, type "
        "decides",
        read=_read_log,
        private=("ip",),
    ),
)
