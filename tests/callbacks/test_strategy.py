"""Processes leave their group themselves, before the interpreter ends."""

import atexit
import sys
from pathlib import Path

from torch import distributed

from rlhf_forge.__main__ import main
from tests import several, tiny_project

pytestmark = tiny_project.QUIET


def trains_and_ends(number: int) -> int:
    line = ["fit", "--config", "sft.yaml", "--trainer.devices=2", "--trainer.accelerator=cpu"]
    sys.argv = ["rlhf_forge", *line]
    assert main(line) == 0
    assert distributed.is_initialized()
    atexit._run_exitfuncs()
    return int(distributed.is_initialized())


def test_no_process_is_in_a_group_when_its_interpreter_ends(project: Path) -> None:
    assert several.together(trains_and_ends) == [0, 0]
