"""What a request may say and how a reply looks: OpenAI's chat completions, and scores.

A field is done or refused, never silently dropped; the one exception is ``user``, which names the
caller and changes no answer.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlhf_forge.data.records import Conversation

MAX_SCORED = 256
Text = Annotated[str, Field(max_length=1_000_000)]


class Strict(BaseModel):
    """No unknown fields, and no value converted to the type that is wanted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Strict):
    """One part of a message that comes in parts."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: Text | list[TextPart]

    def turn(self) -> dict[str, str]:
        """The turn as the chat template takes it."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": self.role, "content": text}


Messages = Annotated[list[Message], Field(min_length=1)]


def conversation(messages: list[Message]) -> Conversation:
    """The turns as the chat template takes them."""
    return [message.turn() for message in messages]


class StreamOptions(Strict):
    """What a stream holds besides the answer."""

    include_usage: bool = False


class ChatRequest(Strict):
    """Body of POST /v1/chat/completions."""

    model: str
    messages: Messages
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream: true")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer, under either of its two names."""
        return self.max_completion_tokens or self.max_tokens


class ScoreRequest(Strict):
    """Body of POST /v1/score: conversations that end with an answer, or prompts and answers."""

    model: str | None = None
    messages: Messages | Annotated[list[Messages], Field(min_length=1)] | None = None
    prompt: Text | list[Text] | None = None
    response: Text | list[Text] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        by_text = (self.prompt is not None, self.response is not None)
        if (self.messages is None) != all(by_text) or (self.messages and any(by_text)):
            raise ValueError("give messages, or prompt and response")
        if isinstance(self.prompt, list) != isinstance(self.response, list):
            raise ValueError("prompt and response must both be single or both be lists")
        answered = self.conversations()
        if not 1 <= len(answered) <= MAX_SCORED:
            raise ValueError(f"between 1 and {MAX_SCORED} answers, got {len(answered)}")
        if any(len(turns) < 2 or turns[-1]["role"] != "assistant" for turns in answered):
            raise ValueError("a conversation to score must end with an assistant's answer")
        return self

    def conversations(self) -> list[Conversation]:
        """What to score, each with the answer as its last turn."""
        if self.messages is not None:
            several = [m for m in self.messages if isinstance(m, list)]
            single = [m for m in self.messages if isinstance(m, Message)]
            return [conversation(turns) for turns in several or [single]]
        prompts, responses = _listed(self.prompt), _listed(self.response)
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} responses")
        return [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            for prompt, response in zip(prompts, responses, strict=True)
        ]


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Counts of tokens, under OpenAI's names."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Reply:
    """The JSON of one chat completion, whole or in chunks; one id and one time through all.

    Args:
        uid: Unique part of the id.
        created: Seconds since 1970.
        model: Name of the model that answers.
    """

    def __init__(self, uid: str, created: int, model: str) -> None:
        self.head = {"id": f"chatcmpl-{uid}", "created": created, "model": model}

    def whole(self, text: str, finish_reason: str, used: dict[str, int]) -> dict[str, Any]:
        """Body of a reply that is not streamed."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return self.head | {"object": "chat.completion", "choices": [choice], "usage": used}

    def chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        """One event of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self.head | {"object": "chat.completion.chunk", "choices": [choice], "usage": None}

    def usage_chunk(self, used: dict[str, int]) -> dict[str, Any]:
        """The event before the end of a stream whose usage was asked for."""
        return self.head | {"object": "chat.completion.chunk", "choices": [], "usage": used}
