import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from rlhf_forge.backbone.freed_memory import keep_freed_memory
if {kept}:
    assert keep_freed_memory()
def step():
    blocks = [torch.ones(2**22) for _ in range(8)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, kept: bool) -> int:
    """Pages that a second step meets for the first time, of the 32768 that it fills."""
    command = [sys.executable, "-c", PROGRAM.format(kept=kept)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_second_step_takes_the_memory_that_the_first_has_freed() -> None:
    assert faults(kept=True) < faults(kept=False) / 4
