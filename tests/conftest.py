"""What every test stands on: a seed, the default dtype as it was, no network, no clock."""

import os

# Read when the libraries are loaded, so before all else. Models this small gain nothing by threads.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

# The same examples on every run, and none too slow: a loaded machine fails no test.
hypothesis.settings.register_profile(
    "house",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("house")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n`` a file stays whole: its tests share fixtures, and some go on from others."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


def pytest_collection_finish() -> None:
    """What is loaded by now stays: every fit collects garbage, and would search all this, 0.3 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seed_and_default_dtype() -> Iterator[None]:
    random.seed(0)
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with base, data and configs, and the working folder of the test."""
    from tests import tiny_project  # late: most tests need no model library

    monkeypatch.chdir(tmp_path)
    return tiny_project.write_project(tmp_path)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with a run ``x`` that has been through all stages."""
    from tests import tiny_project

    monkeypatch.chdir(tmp_path)
    return tiny_project.copy_trained(tmp_path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for tests marked so."""
    from tests.browsing import CHROMIUM, FLAGS

    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()
