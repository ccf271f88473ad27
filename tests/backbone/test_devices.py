"""What can be built to compute with, as a machine has it or not."""

import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_forge.backbone import devices
from rlhf_forge.backbone.devices import kernels_build


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[set[str]]:
    """Triton and Python's headers are there, and no programs but these."""
    found = {"gcc"}
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in found else None)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    kernels_build.cache_clear()
    yield found
    kernels_build.cache_clear()


def test_triton_a_compiler_and_pythons_headers_build_kernels() -> None:
    assert kernels_build()


def test_without_triton_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert not kernels_build()


def test_without_pythons_headers_nothing_is_built(tmp_path: Path) -> None:
    (tmp_path / "Python.h").unlink()
    assert not kernels_build()


@pytest.mark.parametrize("name", ["clang", "gcc"])
def test_triton_takes_either_compiler(programs: set[str], name: str) -> None:
    programs.clear()
    programs.add(name)
    assert kernels_build()


def test_triton_does_not_look_for_another_compiler(programs: set[str]) -> None:
    programs.clear()
    programs.add("cc")
    assert not kernels_build()


def test_the_compiler_that_is_asked_for_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "icx")
    assert not kernels_build()
