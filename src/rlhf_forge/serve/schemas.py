"""What a request may say: OpenAI's chat and text completions, and scores.

A field is done or refused, never silently dropped; the one exception is ``user``, which names the
caller and changes no answer.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlhf_forge.data.records import Conversation
from rlhf_forge.generation.sampler import Sampling

MAX_SCORED = 256
MAX_MESSAGES = 1000
MAX_PROMPTS = 128
Text = Annotated[str, Field(max_length=1_000_000)]
Stop = Annotated[str, Field(min_length=1, max_length=100)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1_000_000)]


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
    content: Text | Annotated[list[TextPart], Field(max_length=MAX_MESSAGES)]

    def turn(self) -> dict[str, str]:
        """The turn as the chat template takes it."""
        parts = self.content
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return {"role": self.role, "content": text}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


def conversation(messages: list[Message]) -> Conversation:
    """The turns as the chat template takes them."""
    return [message.turn() for message in messages]


class StreamOptions(Strict):
    """What a stream holds besides the answer."""

    include_usage: bool = False


class Generation(Strict):
    """What chat and text completions have in common."""

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only for stream: true")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings, however they were given."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, limit: int) -> Sampling:
        """How tokens are chosen, up to ``limit`` of them."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            max_new_tokens=limit,
        )


class ChatRequest(Generation):
    """Body of POST /v1/chat/completions."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only for logprobs: true")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of the answer, under either of its two names."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """Likeliest tokens to tell; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextRequest(Generation):
    """Body of POST /v1/completions: text to go on with, outside any chat template."""

    prompt: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def limit(self) -> int:
        """Most tokens of the answer; 16 where none is given, as OpenAI has it."""
        return 16 if self.max_tokens is None else self.max_tokens

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, however they were given."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        texts = [part for part in self.prompt if isinstance(part, str)]
        several = [part for part in self.prompt if isinstance(part, list)]
        single = [part for part in self.prompt if isinstance(part, int)]
        return [*texts, *several] or [single]


class ScoreRequest(Strict):
    """Body of POST /v1/score: conversations that end with an answer, or prompts and answers."""

    model: str | None = None
    messages: (
        Messages | Annotated[list[Messages], Field(min_length=1, max_length=MAX_SCORED)] | None
    ) = None
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
