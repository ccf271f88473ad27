"""Print for each fault the test that noticed it; end with 1 if one was not noticed."""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests import mutants
from tests.mutants.change import Mutant
from tests.mutants.classic import CLASSIC
from tests.mutants.copy import Copy
from tests.mutants.more import MORE
from tests.mutants.unread import UNREAD

MUTANTS = [*CLASSIC, *MORE, *UNREAD]


def tell(line: str) -> None:
    """A line as soon as it is known."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def chosen(words: Sequence[str]) -> list[Mutant]:
    """The faults whose description holds one of the words; all without any."""
    return [m for m in MUTANTS if not words or any(word in m.fault for word in words)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Show that the tests pass, and then for each fault which of them does not any more."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=mutants.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help="of the faults to make; none: all")
    parser.add_argument("--tests", nargs="+", help="ask these; else those of the changed files")
    options = parser.parse_args(arguments)
    wanted = chosen(options.words)
    asked = {mutant.fault: options.tests or mutant.tests for mutant in wanted}
    # Read when the libraries are loaded, and that is done by the copy.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    start = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # neither folder nor fork stays behind
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        copy = Copy(Path(folder))
        files = sorted({test for tests in asked.values() for test in tests})
        if failed := copy.first_failure(files):
            tell(f"{failed} fails without a fault")
            return 1
        tell(f"without a fault all tests pass ({time.monotonic() - start:.0f} s)\n")
        tell("| fault | noticed by | s |\n|---|---|---|")
        missed = 0
        for mutant in wanted:
            began = time.monotonic()
            noticed = copy.noticed_by(mutant, asked[mutant.fault])
            missed += noticed is None
            seconds = time.monotonic() - began
            tell(f"| {mutant.fault} | {noticed or '**nothing**'} | {seconds:.1f} |")
    total = time.monotonic() - start
    tell(f"\n{len(wanted) - missed} of {len(wanted)} noticed, in {total:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
