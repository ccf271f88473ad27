"""One small run, and one server of it for all tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.server import Server
from tests.tiny_run import write_base, write_run


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("server")
    return write_run(root / "tiny", base=write_base(root / "base"))


@pytest.fixture(scope="session")
def server(served_run: Path) -> Iterator[Server]:
    server = Server(served_run)
    yield server
    server.end()
