"""``inspect-data --explain``: what a rule means."""


def explain_rule(code: str) -> int:
    """Say what a rule of inspect-data means, and what to do.

    Args:
        code: Such as PREF203.
    """
    from rlhf_forge.inspection.selection import rule_of

    rule = rule_of(code)
    removed = "; a cleaned copy is without such records" if rule.removes else ""
    print(f"{rule.code} {rule.name} ({rule.severity}{removed})\n\n{rule.why}")
    return 0
