"""Choosing rules, and putting them in order."""

from collections.abc import Iterable

from rlhf_forge.errors import UserError
from rlhf_forge.inspection.rule import Rule, Severity
from rlhf_forge.inspection.rules import BY_CODE
from rlhf_forge.words import nearest


def selected(select: str | None, ignore: str | None) -> frozenset[str]:
    """Codes that were asked for, less those that were not.

    Args:
        select: Codes or their beginnings (PREF3), separated by commas; None for all.
        ignore: The same.

    Raises:
        UserError: For a beginning of no code.
    """
    chosen = frozenset(BY_CODE) if select is None else _expanded(select, "select")
    return chosen - (_expanded(ignore, "ignore") if ignore else frozenset())


def rule_of(code: str) -> Rule:
    """The rule with this code.

    Raises:
        UserError: If there is none.
    """
    rule = BY_CODE.get(code.upper())
    if rule is None:
        raise UserError(f"--explain: no rule {code!r}", hint=nearest(code.upper(), BY_CODE))
    return rule


def _expanded(codes: str, option: str) -> frozenset[str]:
    starts = [code.strip().upper() for code in codes.split(",")]
    for start in starts:
        if not start or not any(code.startswith(start) for code in BY_CODE):
            raise UserError(f"--{option}: no rule {start!r}", hint=nearest(start, BY_CODE))
    return frozenset(code for code in BY_CODE if code.startswith(tuple(starts)))


def worst(codes: Iterable[str]) -> list[Rule]:
    """Their rules, errors first, then by code."""
    order: list[Severity] = ["error", "warning", "info"]
    return sorted(
        (BY_CODE[c] for c in codes), key=lambda rule: (order.index(rule.severity), rule.code)
    )
