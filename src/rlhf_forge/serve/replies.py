"""How an answer looks: OpenAI's chat and text completions, whole and as events of a stream."""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rlhf_forge.generation.engine import Drawn

Named = Callable[[int], str]


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Counts of tokens, under OpenAI's names."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def event(data: dict[str, Any]) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


class Reply(Protocol):
    """The JSON of one completion; one id and one time through all of it."""

    head: dict[str, Any]

    def choice(
        self, index: int, text: str, reason: str | None, drawn: Sequence[Drawn]
    ) -> dict[str, Any]:
        """One choice of a whole answer."""

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream says of a choice before its text."""

    def piece(
        self, index: int, text: str, reason: str | None, drawn: Sequence[Drawn]
    ) -> dict[str, Any]:
        """One piece of a choice in a stream."""

    def whole(self, choices: list[dict[str, Any]], used: dict[str, int]) -> dict[str, Any]:
        """Body of an answer that is not streamed."""

    def chunk(self, choices: list[dict[str, Any]], used: dict[str, int] | None) -> dict[str, Any]:
        """One event of a stream."""


class ChatReply:
    """A chat completion.

    Args:
        model: Name of the model that answers.
        named: Text of a single token.
    """

    def __init__(self, model: str, named: Named) -> None:
        uid, created = uuid.uuid4().hex, int(time.time())
        self.head = {"id": f"chatcmpl-{uid}", "created": created, "model": model}
        self._named = named

    def choice(
        self, index: int, text: str, reason: str | None, drawn: Sequence[Drawn]
    ) -> dict[str, Any]:
        """See `Reply`."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, **self._ending(reason, drawn)}

    def opening(self, index: int) -> dict[str, Any] | None:
        """See `Reply`."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(
        self, index: int, text: str, reason: str | None, drawn: Sequence[Drawn]
    ) -> dict[str, Any]:
        """See `Reply`."""
        delta = {"content": text} if text else {}
        return {"index": index, "delta": delta, **self._ending(reason, drawn)}

    def whole(self, choices: list[dict[str, Any]], used: dict[str, int]) -> dict[str, Any]:
        """See `Reply`."""
        return self.head | {"object": "chat.completion", "choices": choices, "usage": used}

    def chunk(self, choices: list[dict[str, Any]], used: dict[str, int] | None) -> dict[str, Any]:
        """See `Reply`."""
        return self.head | {"object": "chat.completion.chunk", "choices": choices, "usage": used}

    def _ending(self, reason: str | None, drawn: Sequence[Drawn]) -> dict[str, Any]:
        told = [self._told(one) for one in drawn if one.likelihood is not None]
        logprobs = {"content": told, "refusal": None} if told else None
        return {"logprobs": logprobs, "finish_reason": reason}

    def _told(self, one: Drawn) -> dict[str, Any]:
        assert one.likelihood is not None
        top = [self._entry(token, log_prob) for token, log_prob in one.likelihood.top]
        return self._entry(one.token, one.likelihood.drawn) | {"top_logprobs": top}

    def _entry(self, token: int, log_prob: float) -> dict[str, Any]:
        text = self._named(token)
        return {"token": text, "logprob": log_prob, "bytes": list(text.encode())}


class TextReply:
    """A text completion.

    Args:
        model: Name of the model that answers.
        named: Text of a single token.
    """

    def __init__(self, model: str, named: Named) -> None:
        uid, created = uuid.uuid4().hex, int(time.time())
        self.head = {"id": f"cmpl-{uid}", "created": created, "model": model}
        self._named = named
        self._offsets: dict[int, int] = {}

    def choice(
        self, index: int, text: str, reason: str | None, drawn: Sequence[Drawn]
    ) -> dict[str, Any]:
        """See `Reply`."""
        return {
            "index": index,
            "text": text,
            "logprobs": self._told(index, drawn),
            "finish_reason": reason,
        }

    def opening(self, index: int) -> dict[str, Any] | None:
        """See `Reply`."""
        return None

    piece = choice

    def whole(self, choices: list[dict[str, Any]], used: dict[str, int]) -> dict[str, Any]:
        """See `Reply`."""
        return self.head | {"object": "text_completion", "choices": choices, "usage": used}

    def chunk(self, choices: list[dict[str, Any]], used: dict[str, int] | None) -> dict[str, Any]:
        """See `Reply`."""
        return self.head | {"object": "text_completion", "choices": choices, "usage": used}

    def _told(self, index: int, drawn: Sequence[Drawn]) -> dict[str, Any] | None:
        told = [one for one in drawn if one.likelihood is not None]
        if not told:
            return None
        names = [self._named(one.token) for one in told]
        offsets = []
        for name in names:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(name)
        likelihoods = [one.likelihood for one in told if one.likelihood is not None]
        return {
            "tokens": names,
            "token_logprobs": [each.drawn for each in likelihoods],
            "top_logprobs": [
                {self._named(token): log_prob for token, log_prob in each.top}
                for each in likelihoods
            ],
            "text_offset": offsets,
        }
