"""The memory that is free."""

from pathlib import Path

import psutil
import pytest
import torch

from rlhf_forge.planning import device

CPU = torch.device("cpu")


def test_files_that_a_group_has_read_count_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1024\n")
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 300\nactive_file 200\ninactive_file 500\n")
    assert device.memory_available(CPU) == 1024 - 300


def test_a_group_without_a_limit_has_what_the_system_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert device.memory_available(CPU) == free.available
