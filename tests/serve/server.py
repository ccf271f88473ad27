"""The server as a process, and raw requests to it."""

import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import openai

from tests.ports import free_port

SECONDS_TO_START = 300
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """``python -m rlhf_forge serve RUN`` on a free port, loaded.

    Args:
        run: The run's folder.
        options: More of the command line.
        environment: Of the process; None: ours.
    """

    def __init__(self, run: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = run / f"server-{self.port}.log"
        command = [sys.executable, "-m", "rlhf_forge", "serve", str(run), *options]
        command += ["--port", str(self.port)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Come back when answers are given."""
        end = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < end and self.process.poll() is None:
            if self.is_ready():
                return
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError(f"the server did not start: {self.log.read_text()}")

    def is_ready(self) -> bool:
        """Whether answers are given now."""
        try:
            return self.get("/health/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def client(self, key: str = "any") -> openai.OpenAI:
        """A client without retries, so that every error is seen."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=key,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False),
        )

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text."""
        try:
            answer = DIRECT.open(urllib.request.Request(self.url + path, headers=headers))
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        with answer:
            return answer.status, answer.read().decode()

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        """Status and JSON of a raw request."""
        given = {"Content-Type": "application/json"} | headers
        request = urllib.request.Request(self.url + path, data=body, headers=given)
        try:
            answer = DIRECT.open(request)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
        with answer:
            return answer.status, json.loads(answer.read())

    def number(self, name: str) -> float:
        """Sum of a metric over its labels; 0 if nothing was counted yet."""
        lines = self.get("/metrics")[1].splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.split("{")[0].split(" ")[0] == name
        )

    def processes(self) -> list[int]:
        """The server's process and all below it."""
        found, seen = [self.process.pid], 0
        while seen < len(found):
            children = Path(f"/proc/{found[seen]}/task/{found[seen]}/children")
            found += [int(pid) for pid in children.read_text().split()]
            seen += 1
        return found

    def worker(self) -> int:
        """The process with the models: the one that LitServe spawns; it forks the others."""
        [spawned] = [pid for pid in self.processes() if "spawn_main" in command_line(pid)]
        return spawned

    def end(self) -> None:
        """SIGTERM, and what becomes of it."""
        self.process.terminate()
        assert self.process.wait(120) == 0, self.log.read_text()


def command_line(pid: int) -> str:
    """What a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def resident(pid: int) -> int:
    """Bytes of memory that a process has written to; files it maps come and go as they like."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def hello(text: str = "Hello") -> Any:
    """A conversation of one turn."""
    return [{"role": "user", "content": text}]
