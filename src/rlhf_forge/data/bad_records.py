"""What is done about records that cannot be used: stop at the first, skip it, or name them all."""

from collections.abc import Callable
from typing import Literal

from rlhf_forge.data.records import BadRecord
from rlhf_forge.errors import UserError

Policy = Literal["stop", "skip"]
OnBad = Callable[[str, BadRecord], None]
"""Is given the origin of such a record too; where it returns, the record is left out."""
MOST_NAMED = 20
WAY_OUT = "mend the record, or set data.bad_records to skip and have it counted"


def stop(origin: str, bad: BadRecord) -> None:
    """Refuse it.

    Raises:
        UserError: With origin and reason.
    """
    raise UserError(f"{origin}: {bad}", hint=WAY_OUT)


def skip(origin: str, bad: BadRecord) -> None:
    """Leave it out: the tally counts it."""


POLICIES: dict[Policy, OnBad] = {"stop": stop, "skip": skip}


class Named:
    """All that would stop a run: the first by name, the others by number."""

    def __init__(self) -> None:
        self.number = 0
        self._first: list[str] = []

    def note(self, origin: str, bad: BadRecord) -> None:
        """One more."""
        self.number += 1
        if self.number <= MOST_NAMED:
            self._first.append(f"{origin}: {bad}")

    def mistakes(self) -> list[UserError]:
        """A line for each that is named, and the last with the way out."""
        if self.number < 2:
            return [UserError(message, hint=WAY_OUT) for message in self._first]
        shown = "" if self.number <= MOST_NAMED else f"; the first {MOST_NAMED} stand above"
        last = UserError(
            f"data: {self.number:,} records cannot be used{shown}",
            hint="mend them, or set data.bad_records to skip and have them counted",
        )
        return [*map(UserError, self._first), last]
