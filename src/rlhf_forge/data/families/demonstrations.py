"""One answer to learn, or a prompt that waits for one."""

from collections.abc import Callable

from rlhf_forge.data.conversations import (
    answer_of,
    is_answer,
    is_conversation,
    prompt_of,
    split_at_first_answer,
    turns_of,
)
from rlhf_forge.data.format import Fields, Format
from rlhf_forge.data.records import Demonstration, Prompt, Record, assistant
from rlhf_forge.data.values import is_text, text_of


def _read_completion(fields: Fields, origin: str) -> list[Record]:
    prompt = prompt_of(fields["prompt"])
    response = answer_of(fields["completion"], "completion", prompt)
    return [Demonstration(prompt, response, origin, {})]


def _read_turns(key: str) -> Callable[[Fields, str], list[Record]]:
    def read(fields: Fields, origin: str) -> list[Record]:
        turns = turns_of(fields[key], key)
        if turns[-1]["role"] == "user":
            return [Prompt(turns, origin, {})]
        return [Demonstration(*split_at_first_answer(turns, key), origin, {})]

    return read


def _read_text(fields: Fields, origin: str) -> list[Record]:
    return [Demonstration([], assistant(text_of(fields["text"], "text")), origin, {})]


def _read_prompt(fields: Fields, origin: str) -> list[Record]:
    return [Prompt(prompt_of(fields["prompt"]), origin, {})]


DEMONSTRATIONS = (
    Format(
        name="prompt-completion",
        gives="demonstrations",
        keys={"prompt": is_answer, "completion": is_answer},
        mapping="prompt -> prompt, completion -> response",
        read=_read_completion,
    ),
    Format(
        name="messages",
        gives="demonstrations",
        keys={"messages": is_conversation},
        mapping="turns before the first answer -> prompt, the rest -> response",
        read=_read_turns("messages"),
    ),
    Format(
        name="conversations",
        gives="demonstrations",
        keys={"conversations": is_conversation},
        mapping="turns before the first answer -> prompt, the rest -> response",
        read=_read_turns("conversations"),
    ),
    Format(
        name="text",
        gives="demonstrations",
        keys={"text": is_text},
        mapping="text -> response, without a prompt",
        read=_read_text,
        also=lambda fields: fields.get("prompt") is None,
    ),
    Format(
        name="prompts",
        gives="prompts",
        keys={"prompt": is_answer},
        mapping="prompt -> prompt",
        read=_read_prompt,
    ),
)
