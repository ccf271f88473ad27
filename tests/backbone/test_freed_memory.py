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
    blocks = [torch.ones(2**24) for _ in range(4)]
for _ in range(4):
    step()
counts = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(counts))
"""


def faults(*, kept: bool) -> int:
    """Pages that a step behind others meets for the first time, of the 65536 that it fills.

    Of four steps the one with the fewest: what else a process does now and then is left out.
    """
    command = [sys.executable, "-c", PROGRAM.format(kept=kept)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_a_step_takes_the_memory_that_those_before_have_freed() -> None:
    without = faults(kept=False)
    if without == 0:
        pytest.skip("this kernel counts no page faults")
    assert faults(kept=True) < without / 4
