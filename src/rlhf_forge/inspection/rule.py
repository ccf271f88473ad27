"""What a rule is."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Rule:
    """Something that preference data can have wrong.

    Attributes:
        code: Never given to another rule.
        name: What a pair, or the data, is said to be.
        severity: error: training on it is a mistake; warning: look at it; info: know it.
        removes: Whether a cleaned copy is without such rows.
        why: What it means, what it does to training, what to do.
    """

    code: str
    name: str
    severity: Severity
    removes: bool
    why: str
