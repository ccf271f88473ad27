"""A copy of the project, in which a fault may be made, and what tests say of it."""

import importlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tests.mutants.change import Mutant, mutated

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("src") / "rlhf_forge"
# Loading these takes longer than most tests: it is done once, and each fault asked in a fork.
HEAVY = ("torch", "transformers", "lightning.pytorch", "datasets", "hypothesis")
LONGEST_RUN = 900
# No status of pytest's.
NOT_THE_COPY = 70
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


class Copy:
    """Of source, tests and configs, in a folder of its own.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("src", "tests", "configs"):
            shutil.copytree(ROOT / name, self.root / name, ignore=unwanted)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        (self.root / "tmp").mkdir()
        for name in HEAVY:
            importlib.import_module(name)

    def noticed_by(self, mutant: Mutant, tests: Sequence[str]) -> str | None:
        """The first test that fails with the fault in place; None if all pass."""
        files = {self.root / PACKAGE / change.path for change in mutant.changes}
        sound = {path: path.read_text() for path in files}
        for change in mutant.changes:
            path = self.root / PACKAGE / change.path
            path.write_text(mutated(path.read_text(), change))
        try:
            return self.first_failure(tests)
        finally:
            for path, text in sound.items():
                path.write_text(text)

    def first_failure(self, tests: Sequence[str]) -> str | None:
        """The first of the tests that fails; None if all pass.

        Raises:
            RuntimeError: If they could not be run.
        """
        log = self.root / "tmp" / "log.txt"
        context = multiprocessing.get_context("fork")
        process = context.Process(target=self._ask, args=(tests, log), daemon=True)
        process.start()
        process.join(LONGEST_RUN)
        if process.is_alive():
            process.kill()
            return f"none, but they had not ended after {LONGEST_RUN} s"
        said = log.read_text()
        failed = FAILED.findall(said)
        if process.exitcode == 1 and failed:
            return str(failed[0])
        if process.exitcode:
            raise RuntimeError(f"the tests ended with {process.exitcode}:\n{said}")
        return None

    def _ask(self, tests: Sequence[str], log: Path) -> None:
        """Run in the fork: as in a new process that was started in the copy."""
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(self.root)
        tempfile.tempdir = str(self.root / "tmp")
        for name in [n for n in sys.modules if n.partition(".")[0] == "tests"]:
            del sys.modules[name]
        elsewhere = [path for path in sys.path if Path(path).resolve() != ROOT]
        sys.path[:] = [str(self.root), str(self.root / "src"), *elsewhere]
        sys.dont_write_bytecode = True
        found = find_spec("rlhf_forge")
        origin = str(found and found.origin)
        if "rlhf_forge" in sys.modules or not Path(origin).is_relative_to(self.root):
            sys.stderr.write(f"the tests would test {origin} and not the copy\n")
            sys.exit(NOT_THE_COPY)
        import pytest

        # What is loaded before pytest is not rewritten: other people's assertions, not ours.
        loaded = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
        sys.exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *loaded, *tests])))
