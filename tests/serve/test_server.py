"""The server as a process, asked by the client that everyone uses."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from rlhf_forge.serve.loop import score_of
from rlhf_forge.serve.models import load_models, open_models
from rlhf_forge.serve.orders import score_order
from rlhf_forge.serve.schemas import ScoreRequest
from tests.serve.server import DIRECT, Server, hello
from tests.tiny import CPU


def test_an_answer_has_a_reason_to_end_and_its_counts(server: Server) -> None:
    with server.client() as client:
        answer = client.chat.completions.create(model="ppo", messages=hello(), max_tokens=5, seed=1)
    assert answer.object == "chat.completion"
    assert answer.model == "ppo"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5


def test_a_stream_is_the_answer_in_pieces_under_one_id(server: Server) -> None:
    with server.client() as client:
        whole = client.chat.completions.create(model="sft", messages=hello(), max_tokens=20, seed=7)
        chunks = list(
            client.chat.completions.create(
                model="sft",
                messages=hello(),
                max_tokens=20,
                seed=7,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_a_stream_without_usage_ends_with_done(server: Server) -> None:
    body = {"model": "ppo", "messages": hello(), "max_tokens": 2, "stream": True}
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with DIRECT.open(request) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = answer.read().decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-1])


def test_answers_asked_for_at_once_are_those_asked_for_alone(server: Server) -> None:
    def ask(seed: int) -> str | None:
        with server.client() as client:
            answer = client.chat.completions.create(
                model=("base", "sft", "ppo")[seed % 3],
                messages=hello(f"Question {seed}"),
                max_tokens=10,
                seed=seed,
            )
        return answer.choices[0].message.content

    alone = [ask(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == alone
    assert len(set(alone)) == 6


def test_models_lists_what_can_be_asked(server: Server) -> None:
    with server.client() as client:
        assert [model.id for model in client.models.list()] == ["base", "sft", "ppo", "reward"]


def test_an_unknown_model_is_not_found_as_the_client_knows_it(server: Server) -> None:
    with server.client() as client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", messages=hello())
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_refusals_reach_the_client_as_bad_requests(server: Server) -> None:
    with server.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="ppo", messages=hello(), tools=[])
        assert caught.value.code == "unsupported_parameter"
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="ppo", messages=hello(), max_tokens=10_000)
        assert caught.value.code == "context_length_exceeded"


def test_scores_are_those_that_the_reward_model_gives_here(
    server: Server, served_run: Path
) -> None:
    status, answer = server.post("/v1/score", b'{"prompt": ["a", "b"], "response": ["c", "d"]}')
    assert status == 200
    models = open_models([str(served_run)])
    backbone = load_models(models.weights, CPU)
    order = score_order(ScoreRequest(prompt=["a", "b"], response=["c", "d"]), models)
    expected = [score_of(backbone, order.role, *row) for row in order.rows]
    assert answer["scores"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/chat/completions", b"{", {}, 400),
        ("/v1/score", b"[]", {}, 400),
        ("/v1/nothing", b"{}", {}, 404),
        ("/v1/models", b"{}", {}, 405),
        ("/v1/chat/completions", b"{}", {"Content-Type": "text/plain"}, 415),
        ("/v1/chat/completions", b"{}", {"Host": "evil.example"}, 403),
        ("/v1/chat/completions", b"{}", {"Origin": "http://evil.example"}, 403),
        ("/v1/chat/completions", b" " * (2**20 + 1), {}, 413),
    ],
)
def test_every_error_has_the_shape_that_clients_read(
    server: Server, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    got, answer = server.post(path, body, **headers)
    assert got == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}


def test_only_this_machine_is_listened_to(server: Server) -> None:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    assert f"0100007F:{server.port:04X}" in local
    assert f"00000000:{server.port:04X}" not in local


def gone(pids: list[int]) -> bool:
    """Whether none of the processes runs within half a minute; zombies do not run."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        states = [Path(f"/proc/{pid}/stat") for pid in pids]
        alive = [s for s in states if s.exists() and s.read_text().rpartition(")")[2][1] != "Z"]
        if not alive:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_sigterm_lets_an_answer_end_and_leaves_no_process(served_run: Path) -> None:
    server = Server(served_run)
    processes = server.processes()
    assert len(processes) >= 4
    with server.client() as client:
        stream = client.chat.completions.create(
            model="ppo", messages=hello(), max_tokens=150, temperature=0, stream=True
        )
        next(stream)
        server.process.terminate()
        chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason is not None
    assert server.process.wait(60) == 0
    assert gone(processes)


@pytest.mark.slow
def test_no_process_outlives_a_killed_server(served_run: Path) -> None:
    server = Server(served_run)
    processes = server.processes()
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    assert gone(processes)


@pytest.mark.slow
def test_a_port_in_use_is_told_in_one_line(served_run: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "rlhf_forge", "serve", str(served_run), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"error: --port {port}" in done.stderr
    assert "Traceback" not in done.stderr
