"""What a request may say, and the error that answers one that may not."""

import json
from typing import Any

import pytest

from rlhf_forge.serve.errors import ApiError, parsed
from rlhf_forge.serve.schemas import ChatRequest, ScoreRequest, TextRequest

HELLO = [{"role": "user", "content": "Hello"}]
ANSWERED = [*HELLO, {"role": "assistant", "content": "Hi"}]


def chat_error(**fields: Any) -> ApiError:
    body = {"model": "ppo", "messages": HELLO} | fields
    with pytest.raises(ApiError) as caught:
        parsed(ChatRequest, json.dumps(body).encode())
    return caught.value


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "top_p": 1, "max_tokens": 1, "seed": -1},
        {"max_completion_tokens": 3, "stream": True, "stream_options": {"include_usage": True}},
        {"n": 1, "user": "someone", "seed": None, "temperature": None},
        {"n": 8, "stop": "\n", "top_k": 5, "logprobs": True, "top_logprobs": 20},
        {"stop": ["a", "b", "c", "d"], "logprobs": False},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
        {"messages": [{"role": "system", "content": "Be kind."}, *ANSWERED, *HELLO]},
    ],
)
def test_requests_that_clients_send_are_taken(fields: dict[str, Any]) -> None:
    parsed(ChatRequest, json.dumps({"model": "ppo", "messages": HELLO} | fields).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", []),
        ("logit_bias", {"5": 1}),
        ("min_p", 0.1),
        ("frequency_penalty", 0.5),
        ("response_format", {"type": "json_object"}),
        ("made_up", None),
    ],
)
def test_what_is_not_done_is_refused_by_name(name: str, value: Any) -> None:
    error = chat_error(**{name: value})
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", "8"),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", 2.5),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.1),
        ("n", 0),
        ("n", -1),
        ("n", 9),
        ("n", 100_000),
        ("n", True),
        ("stop", ""),
        ("stop", [""]),
        ("stop", ["a"] * 5),
        ("stop", ["a"] * 10_000),
        ("stop", [3]),
        ("stop", "a" * 101),
        ("top_k", -1),
        ("logprobs", 2),
        ("top_logprobs", 21),
        ("messages", HELLO * 20_000),
        ("seed", 2**63),
        ("seed", 0.5),
        ("stream", "yes"),
        ("model", None),
        ("model", 3),
        ("messages", []),
        ("messages", None),
        ("messages", "Hello"),
        ("messages", [{"role": "emperor", "content": "Hello"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user"}]),
        ("stream_options", "usage"),
    ],
)
def test_values_of_a_wrong_kind_or_size_are_refused_by_name(name: str, value: Any) -> None:
    error = chat_error(**{name: value})
    assert (error.status, error.code, error.param) == (400, "invalid_value", name)
    assert set(error.body()["error"]) == {"message", "type", "param", "code"}


def test_fields_that_contradict_each_other_are_refused() -> None:
    assert "not both" in str(chat_error(max_tokens=1, max_completion_tokens=1))
    assert "stream" in str(chat_error(stream_options={"include_usage": True}))
    assert "top_logprobs" in str(chat_error(top_logprobs=3))
    assert "the user's" in str(chat_error(messages=ANSWERED))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": "ppo", "messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(ChatRequest, body)
    assert caught.value.status == 400
    assert "Traceback" not in str(caught.value)
    json.dumps(caught.value.body()).encode()


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"prompt": "Hello", "response": "Hi"}, 1),
        ({"prompt": ["Hello", "You?"], "response": ["Hi", "Well."]}, 2),
        ({"messages": ANSWERED}, 1),
        ({"messages": [ANSWERED, ANSWERED, ANSWERED]}, 3),
        ({"model": "reward", "messages": ANSWERED}, 1),
    ],
)
def test_answers_to_score_come_single_or_as_a_list(fields: dict[str, Any], number: int) -> None:
    request = parsed(ScoreRequest, json.dumps(fields).encode())
    conversations = request.conversations()
    assert len(conversations) == number
    assert all(turns[-1]["role"] == "assistant" for turns in conversations)
    assert conversations[0] == ANSWERED


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "Hello"},
        {"prompt": "Hello", "response": "Hi", "messages": ANSWERED},
        {"prompt": "Hello", "messages": ANSWERED},
        {"prompt": ["a", "b"], "response": ["c"]},
        {"prompt": "Hello", "response": ["Hi"]},
        {"prompt": [], "response": []},
        {"messages": HELLO},
        {"messages": [ANSWERED, HELLO]},
        {"messages": []},
        {"messages": [ANSWERED] * 257},
    ],
)
def test_answers_that_cannot_be_told_from_prompts_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(ScoreRequest, json.dumps(fields).encode())
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Hello", ["Hello"]),
        (["Hello", "You"], ["Hello", "You"]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
    ],
)
def test_prompts_come_single_or_as_a_list_as_text_or_as_tokens(prompt: Any, prompts: Any) -> None:
    body = json.dumps({"model": "ppo", "prompt": prompt}).encode()
    assert parsed(TextRequest, body).prompts == prompts


@pytest.mark.parametrize(
    "prompt", [None, [], [[]], [1.5], [-1], ["a", 5], ["a", [5]], 5, ["a"] * 129, {"text": "a"}]
)
def test_a_prompt_that_is_neither_text_nor_tokens_is_refused(prompt: Any) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(TextRequest, json.dumps({"model": "ppo", "prompt": prompt}).encode())
    assert (caught.value.status, caught.value.param) == (400, "prompt")
