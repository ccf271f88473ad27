"""docs/serving.md: its commands and its code run as they stand, its tables say what there is."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_forge.serve.metrics import Metrics
from rlhf_forge.serve.openapi import ASKED, BODIES
from rlhf_forge.serve.routes import OPENAPI
from rlhf_forge.serve.settings import KEYS, Settings
from tests.serve.server import Server

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
HERE = "127.0.0.1:8000"
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CURLS = [line for _, text in BLOCKS.findall(PAGE) for line in text.splitlines() if "curl " in line]
README = Path(__file__).parents[2] / "README.md"


def blocks(language: str, text: str = PAGE) -> list[str]:
    return [block for name, block in BLOCKS.findall(text) if name == language]


def first_column(heading: str) -> set[str]:
    """Names in the first cells of the table under a heading."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("line", CURLS)
def test_a_request_on_the_page_is_answered(line: str, server: Server) -> None:
    command = line.replace(HERE, f"127.0.0.1:{server.port}").replace("curl ", "curl --noproxy '*' ")
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert "error" not in answer


@pytest.mark.parametrize(
    "code", [*blocks("python"), *(b for b in blocks("python", README.read_text()) if HERE in b)]
)
def test_code_on_the_page_runs(code: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    if "langchain" in code:
        pytest.importorskip("langchain_openai")
    names: dict[str, Any] = {}
    exec(code.replace(HERE, f"127.0.0.1:{server.port}"), names)
    if "client" in names:
        names["client"].close()


@pytest.mark.skipif(shutil.which("llm") is None, reason="no llm")
def test_llm_gets_an_answer_as_the_page_asks(server: Server, tmp_path: Path) -> None:
    [line] = [part for part in blocks("console") if part.startswith("llm ")]
    environment = os.environ | {"NO_PROXY": "*", "LLM_USER_PATH": str(tmp_path)}
    command = line.replace(HERE, f"127.0.0.1:{server.port}")
    subprocess.run(command, shell=True, env=environment, capture_output=True, check=True)


def test_the_settings_on_the_page_are_those_there_are() -> None:
    assert first_column("Settings") == set(Settings.model_fields)
    for block in blocks("yaml"):
        Settings.model_validate(yaml.safe_load(block))


def test_the_numbers_on_the_page_are_those_that_are_counted() -> None:
    assert first_column("Numbers") == {metric.name for metric in Metrics().registry.collect()}


def test_the_addresses_on_the_page_are_those_that_answer() -> None:
    addresses = {name.split(" ")[1] for name in first_column("What it answers")}
    assert addresses - {"/v1/models/{name}"} == {*BODIES, *ASKED, OPENAPI}


def test_the_variable_with_the_keys_has_its_name() -> None:
    assert f"{KEYS}=" in PAGE
