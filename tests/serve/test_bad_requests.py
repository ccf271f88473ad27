"""More than a hundred requests that nobody should send: each is refused, and none does harm."""

import json
import socket
from typing import Any

import pytest

from tests.serve.server import Server, hello, resident
from tests.tiny_run import CONTEXT

CHAT, TEXT, SCORE = "/v1/chat/completions", "/v1/completions", "/v1/score"
MIB = 2**20
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"model": "ppo", "messages": hello(), "max_tokens": 2},
    TEXT: {"model": "ppo", "prompt": "Hello", "max_tokens": 2},
    SCORE: {"model": "reward", "prompt": "Hello", "response": "Hi"},
}
# Values that no field of that name may have.
BAD_VALUES: dict[str, list[Any]] = {
    "model": [None, 3, "", "gpt-4", "reward", "../../etc/passwd", "/etc/passwd", "a\x00b", ["ppo"]],
    "max_tokens": [0, -1, 1.5, "8", True, 10**9, 2**70, CONTEXT, [], float("nan")],
    "temperature": [-0.1, 2.1, "hot", float("nan"), float("inf"), -float("inf"), 1e308, True],
    "top_p": [0, -1, 1.1, float("nan"), "1"],
    "top_k": [-1, 0.5, 2**40],
    "seed": [2**63, -(2**63) - 1, 0.5, "7", 10**400],
    "n": [0, -1, 9, 100_000, 1.5, True],
    "stop": ["", [""], ["a"] * 5, ["a"] * 10_000, 7, [None], "a" * 10_000],
    "stream": ["yes", 1],
    "stream_options": ["usage", {"include_usage": True}, {"made_up": 1}],
    "user": [5],
    "tools": [[]],
    "logit_bias": [{"5": 1}, {"999999": 1}],
    "presence_penalty": [0.5],
    "response_format": [{"type": "json_object"}],
    "made_up": [None],
}
BAD_MESSAGES: list[Any] = [
    None,
    "Hello",
    [],
    {},
    [None],
    ["Hello"],
    [{}],
    [{"role": "user"}],
    [{"content": "Hello"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": 5}],
    [{"role": "user", "content": {"type": "text"}}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
    [{"role": "emperor", "content": "Hello"}],
    [{"role": "User", "content": "Hello"}],
    [{"role": "tool", "content": "Hello"}],
    [*hello(), {"role": "assistant", "content": "Hi"}],
    [{"role": "user", "content": "Hello", "name": "x"}],
    hello() * 20_000,
    hello("word " * 10_000),
    [{"role": "user", "content": "\ud800"}],
]
BAD_PROMPTS: list[Any] = [None, [], [[]], [-1], [10**6], [1.5], ["a", 5], {}, ["a"] * 129, "\udfff"]
BAD_SCORES: list[dict[str, Any]] = [
    {},
    {"prompt": "a"},
    {"prompt": "a", "response": "b", "messages": hello()},
    {"prompt": ["a"], "response": "b"},
    {"prompt": ["a", "b"], "response": ["c"]},
    {"prompt": [], "response": []},
    {"messages": hello()},
    {"messages": []},
    {"model": "ppo", "prompt": "a", "response": "b"},
    {"model": "nobody", "prompt": "a", "response": "b"},
    {"prompt": "a" * 5000, "response": "b"},
    {"prompt": ["a"] * 257, "response": ["b"] * 257},
    {"prompt": "a", "response": "b", "stream": True},
]
RAW: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b'"text"',
    b"null",
    b"5",
    b"NaN",
    b"\xff\xfe",
    b"\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"model": "ppo", "messages": ' + b"[" * 100_000,
    b'{"model": "ppo", "model": "sft"}',
    b'{"model": "ppo", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b"--boundary\r\n",
]


def encoded(body: dict[str, Any]) -> bytes:
    """JSON as Python writes it: with NaN, and with halves of surrogate pairs as they are."""
    return json.dumps(body).encode()


CASES: list[tuple[str, bytes, dict[str, str], int | None]] = [
    *(
        (path, encoded(GOOD[path] | {field: value}), {}, None)
        for path in (CHAT, TEXT)
        for field, values in BAD_VALUES.items()
        for value in values
    ),
    *((CHAT, encoded(GOOD[CHAT] | {"messages": messages}), {}, 400) for messages in BAD_MESSAGES),
    *((TEXT, encoded(GOOD[TEXT] | {"prompt": prompt}), {}, 400) for prompt in BAD_PROMPTS),
    *((SCORE, encoded(body), {}, None) for body in BAD_SCORES),
    *((path, body, {}, 400) for path in GOOD for body in RAW),
    *((path, b" " * (4 * MIB), {}, 413) for path in GOOD),
    *((path, encoded(body), {"Host": "evil.example"}, 403) for path, body in GOOD.items()),
    *((path, encoded(body), {"Origin": "http://evil.example"}, 403) for path, body in GOOD.items()),
    *((path, encoded(body), {"Content-Type": "text/plain"}, 415) for path, body in GOOD.items()),
    ("/v1/nothing", b"{}", {}, 404),
    ("/v1/chat", b"{}", {}, 404),
    ("/..%2f..%2fetc/passwd", b"{}", {}, 404),
    ("/v1/models", b"{}", {}, 405),
    ("/metrics", b"{}", {}, 405),
]


def test_there_are_more_than_a_hundred_of_them() -> None:
    assert len(CASES) >= 100


def test_each_is_refused_in_the_shape_that_clients_read_and_the_server_stays_well(
    server: Server,
) -> None:
    server.post(CHAT, encoded(GOOD[CHAT]))
    before = sum(map(resident, server.processes()))
    for path, body, headers, status in CASES:
        got, answer = server.post(path, body, **headers)
        told = (path, body[:200], headers, got, answer)
        assert 400 <= got < 500, told
        assert status is None or got == status, told
        assert set(answer) == {"error"}, told
        assert set(answer["error"]) == {"message", "type", "param", "code"}, told
        assert "Traceback" not in answer["error"]["message"], told
    for path, good in GOOD.items():
        assert server.post(path, encoded(good))[0] == 200
    assert server.number("forge_running") == server.number("forge_waiting") == 0
    assert sum(map(resident, server.processes())) - before < 64 * MIB
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "path", ["/v1/models/nobody", "/v1/models/../x", "/docs", "/page/x", "/info"]
)
def test_what_is_not_there_is_not_found(server: Server, path: str) -> None:
    status, text = server.get(path)
    assert status == 404
    assert set(json.loads(text)["error"]) == {"message", "type", "param", "code"}


def test_what_is_no_http_at_all_disturbs_nobody(server: Server) -> None:
    for junk in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(junk)
    assert server.is_ready()
