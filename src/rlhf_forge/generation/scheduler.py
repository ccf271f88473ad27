"""Who runs and who waits: first come, first served, into whatever slots are free."""

import logging
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_forge.generation.engine import Drawn, Engine, Entry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """What one turn brought.

    Attributes:
        drawn: A token of each row that runs.
        failed: Names of rows whose prompts could not be read.
    """

    drawn: list[Drawn]
    failed: list[Any] = field(default_factory=list)


class Scheduler:
    """Lets waiting rows enter an engine between its steps.

    Args:
        engine: Where rows run.
        prefill_tokens: Prompt tokens read at most between two steps, if it is not one prompt alone:
            running rows wait that long for their next token.
    """

    def __init__(self, engine: Engine, *, prefill_tokens: int) -> None:
        self.engine = engine
        self.prefill_tokens = prefill_tokens
        self._waiting: deque[Entry] = deque()

    @property
    def waiting(self) -> int:
        """Rows without a slot."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether a turn has anything to do."""
        return bool(self._waiting) or self.engine.running > 0

    def submit(self, entries: Sequence[Entry]) -> None:
        """Let rows wait for their slots."""
        self._waiting.extend(entries)

    def cancel(self, names: Collection[Any]) -> None:
        """Tell nothing more of these rows; their slots are free within a turn."""
        gone = set(names)
        self._waiting = deque(entry for entry in self._waiting if entry.name not in gone)
        self.engine.drop(gone)

    def clear(self) -> list[Any]:
        """Forget all rows, in what state ever they are; the names of those that ran or waited."""
        names = [*self.engine.names, *(entry.name for entry in self._waiting)]
        self._waiting.clear()
        self.engine.clear()
        return names

    def turn(self) -> Turn:
        """Let rows enter and draw a token for every row that runs."""
        failed = self._enter(self._next())
        return Turn(self.engine.step(), failed)

    def _next(self) -> list[Entry]:
        entering: list[Entry] = []
        tokens, read = 0, None
        while self._waiting and len(entering) < self.engine.free:
            request = self._waiting[0].request
            if read != (request.role, request.prompt):  # siblings come one behind the other
                tokens += len(request.prompt)
            if entering and tokens > self.prefill_tokens:
                break
            read = (request.role, request.prompt)
            entering.append(self._waiting.popleft())
        return entering

    def _enter(self, entries: Sequence[Entry]) -> list[Any]:
        """Names of the rows that could not enter: one that cannot must not take others with it."""
        if not entries:
            return []
        try:
            self.engine.add(entries)
        except Exception:
            if len(entries) > 1:
                return [name for entry in entries for name in self._enter([entry])]
            logger.exception("a prompt of %d tokens failed", len(entries[0].request.prompt))
            return [entries[0].name]
        return []
