"""docs/deploying.md and docs/deploy: linted where a linter is, by our rules where not."""

import configparser
import json
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from typing_extensions import override

from rlhf_forge.serve.http import MAX_BODY_BYTES
from rlhf_forge.serve.settings import Settings, read_settings

DEPLOY = Path(__file__).parent.parent / "docs" / "deploy"
ROOT = DEPLOY.parent.parent
UNIT = DEPLOY / "rlhf-forge.service"
PATIENCE = 300
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
# Instructions with what follows them, lines that go on put together.
STEPS = [
    tuple(line.split(" ", 1))
    for line in DOCKERFILE.replace("\\\n", "").splitlines()
    if line and not line.startswith("#")
]


def said(instruction: str) -> list[str]:
    return [rest for name, rest in STEPS if name == instruction]


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names keep their case
    parser.read(UNIT)
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/rlhf-forge/bin/python", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(here)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_gives_no_more_than_is_needed() -> None:
    service = unit()
    closed = ["DynamicUser", "NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictNamespaces"]
    assert {service[name] for name in closed} == {"yes"}
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert int(service["TimeoutStopSec"]) > Settings().drain + 5


def test_kernels_are_built_where_the_unit_may_write() -> None:
    service = unit()
    places = dict(each.split("=") for each in service["Environment"].split())
    assert places["TRITON_CACHE_DIR"].startswith(f"/var/cache/{service['CacheDirectory']}/")


def test_the_unit_starts_the_server_with_the_settings_that_lie_beside_it() -> None:
    settings = read_settings(DEPLOY / "serve.yaml", {})
    service = unit()
    command = service["ExecStart"].split()
    assert command[1:4] == ["-m", "rlhf_forge", "serve"]
    assert command[-2:] == ["--config", "/etc/rlhf-forge/serve.yaml"]
    name = service["LoadCredential"].partition(":")[0]
    assert settings.keys_file == f"/run/credentials/{UNIT.name}/{name}"
    assert settings.feedback.startswith(f"/var/lib/{service['StateDirectory']}/")


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="no hadolint")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(["hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_is_slim_pinned_and_runs_without_root() -> None:
    assert {image.split()[0] for image in said("FROM")} == {"python:3.12-slim-bookworm"}
    names = [name for name, _ in STEPS]
    assert said("USER") == ["10001"]
    assert names.index("USER") > max(at for at, name in enumerate(names) if name == "RUN")
    assert "ADD" not in names
    for run in said("RUN"):
        assert "pip install" not in run or "--no-cache-dir" in run
        assert "sudo" not in run
    assert not re.search(r"(?i)key|secret|token", " ".join(said("ENV") + said("ARG")))


def test_what_the_image_copies_is_there() -> None:
    for copied in said("COPY"):
        if not copied.startswith("--from"):
            *sources, _ = copied.split()
            assert all((ROOT / source).exists() for source in sources)


def test_the_image_serves_what_is_mounted_and_says_it_is_healthy_only_if_it_is() -> None:
    assert json.loads(said("ENTRYPOINT")[0])[1:] == ["-m", "rlhf_forge", "serve"]
    assert json.loads(said("CMD")[0]) == ["/model", "--host", "0.0.0.0"]
    [check] = said("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert "http://127.0.0.1:8000/health/ready" in command[-1]
    for status in (200, 503):
        assert healthy(command[-1], status) == (status == 200)


def healthy(code: str, status: int) -> bool:
    """What the check says of a server that answers ``status``."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        @override
        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        server.timeout = PATIENCE  # should nobody ask
        answering = Thread(target=server.handle_request)
        answering.start()
        code = code.replace(":8000", f":{server.server_port}")
        code = code.replace("timeout=2", f"timeout={PATIENCE}")
        environment = {"no_proxy": "*", "PATH": ""}
        command = [sys.executable, "-c", code]
        asked = subprocess.run(command, env=environment, capture_output=True, check=False)
        answering.join()
        return asked.returncode == 0


def test_the_proxies_keep_the_servers_bounds_and_pass_streams_on() -> None:
    nginx, caddy = ((DEPLOY / name).read_text() for name in ("nginx.conf", "Caddyfile"))
    name = yaml.safe_load((DEPLOY / "serve.yaml").read_text())["hosts"][0]
    for text in (nginx, caddy):
        assert name in text
        assert "127.0.0.1:8000" in text
        assert text.count("{") == text.count("}")
    lines = dict(
        line.strip().rstrip(";").split(" ", 1) for line in nginx.splitlines() if line.endswith(";")
    )
    assert lines["proxy_buffering"] == "off"
    assert lines["client_max_body_size"] == f"{MAX_BODY_BYTES // 2**20}m"
    assert int(lines["proxy_read_timeout"].removesuffix("s")) > Settings().deadline
    assert lines["proxy_set_header"] == "Host $host"
    assert "flush_interval -1" in caddy
