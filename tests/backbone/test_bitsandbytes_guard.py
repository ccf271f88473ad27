import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_forge.backbone.bitsandbytes_guard import (
    hub_kernels_blocked,
    import_bitsandbytes,
    import_peft,
)

# A hub-kernels package that tells of any call, on a CPU that would make bitsandbytes call it.
FAKE_KERNELS = """
def get_kernel(*args, **kwargs):
    print("CALLED", *args, flush=True)
    raise SystemExit("a kernel was fetched")
"""
AVX512_BF16_CPU = """
import ctypes
load = ctypes.cdll.LoadLibrary
def load_with_units(name):
    library = load(name)
    library.has_avx512bf16_cpu = lambda: print("ASKED", flush=True) or True
    return library
ctypes.cdll.LoadLibrary = load_with_units
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "kernels.py").write_text(FAKE_KERNELS)
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow  # two fresh interpreters that import torch
def test_no_hub_kernel_is_fetched_where_bitsandbytes_alone_would_fetch_one(tmp_path: Path) -> None:
    unguarded = run(f"{AVX512_BF16_CPU}\nimport bitsandbytes", tmp_path)
    assert "CALLED kernels-community" in unguarded.stdout
    guarded = run(
        f"{AVX512_BF16_CPU}\n"
        "from rlhf_forge.backbone.bitsandbytes_guard import import_bitsandbytes, import_peft\n"
        "import_peft()\nimport_bitsandbytes()\nimport kernels",
        tmp_path,
    )
    assert guarded.returncode == 0, guarded.stderr
    assert "ASKED" in guarded.stdout
    assert "CALLED" not in guarded.stdout
    assert "Failed to load CPU gemm_4bit_forward" not in guarded.stderr


def test_kernels_cannot_be_imported_inside_the_guard_and_is_as_before_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    with hub_kernels_blocked(), pytest.raises(ImportError):
        __import__("kernels")
    assert "kernels" not in sys.modules
    monkeypatch.setitem(sys.modules, "kernels", sys)
    with hub_kernels_blocked(), pytest.raises(ImportError):
        __import__("kernels")
    assert sys.modules["kernels"] is sys


def test_the_guard_lets_go_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    with pytest.raises(ZeroDivisionError), hub_kernels_blocked():
        _ = 1 / 0
    assert "kernels" not in sys.modules


def test_after_the_first_import_the_guard_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of a server dequantise at once; none may take `kernels` from another's hands."""
    packages = import_bitsandbytes(), import_peft()

    def fail() -> None:
        raise AssertionError

    monkeypatch.setattr("rlhf_forge.backbone.bitsandbytes_guard.hub_kernels_blocked", fail)
    assert (import_bitsandbytes(), import_peft()) == packages


@pytest.mark.slow  # a fresh interpreter that imports transformers
def test_importing_the_backbone_imports_neither_bitsandbytes_nor_peft() -> None:
    program = (
        "import sys, rlhf_forge.backbone.backbone, rlhf_forge.backbone.loading\n"
        "assert not {'bitsandbytes', 'peft'} & set(sys.modules)"
    )
    run_program = subprocess.run([sys.executable, "-c", program], check=False)
    assert run_program.returncode == 0
