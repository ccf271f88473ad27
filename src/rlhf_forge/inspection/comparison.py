"""Two versions of the data: which pairs are new, gone, or changed sides."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlhf_forge.inspection.findings import Inspection
from rlhf_forge.inspection.ledger import Columns
from rlhf_forge.inspection.sets import mixed
from rlhf_forge.inspection.words import Hashes


@dataclass(frozen=True)
class Comparison:
    """From an old version to a new one; pairs count once however often they stand there.

    Attributes:
        kept: Pairs that both have.
        gone: Pairs that only the old one has, in neither order.
        new: Pairs that only the new one has, in neither order.
        turned: Pairs whose label is the other way round.
        prompts_new: Prompts that only the new one has.
        prompts_gone: Prompts that only the old one has.
        findings: For each code the number of records, old and new.
        tendencies: For each tendency its share, old and new.
    """

    kept: int
    gone: int
    new: int
    turned: int
    prompts_new: int
    prompts_gone: int
    findings: dict[str, tuple[int, int]]
    tendencies: dict[str, tuple[float, float]]


def compared(old: Inspection, new: Inspection) -> Comparison:
    """What changed from one version to the other."""
    before, after = old.ledger.columns(), new.ledger.columns()
    ours, theirs = _pairs(before), _pairs(after)
    swapped_before, swapped_after = _pairs(before, swapped=True), _pairs(after, swapped=True)
    prompts_before, prompts_after = (np.unique(c.prompt[c.is_pair]) for c in (before, after))
    gone, fresh = np.setdiff1d(ours, theirs), np.setdiff1d(theirs, ours)
    turned = np.intersect1d(gone, swapped_after)
    return Comparison(
        kept=len(np.intersect1d(ours, theirs)),
        gone=len(gone) - len(turned),
        new=len(np.setdiff1d(fresh, swapped_before)),
        turned=len(turned),
        prompts_new=len(np.setdiff1d(prompts_after, prompts_before)),
        prompts_gone=len(np.setdiff1d(prompts_before, prompts_after)),
        findings=_findings(old, new),
        tendencies={
            a.name: (a.share.value, b.share.value)
            for a, b in zip(old.tendencies, new.tendencies, strict=True)
            if a.share.n and b.share.n
        },
    )


def comparison_lines(found: Comparison) -> Iterator[str]:
    """The comparison in lines."""
    yield (
        f"from old to new: {found.kept:,} pairs kept, {found.new:,} new, {found.gone:,} gone, "
        f"{found.turned:,} with the label turned round"
    )
    yield f"prompts: {found.prompts_new:,} new, {found.prompts_gone:,} gone"
    for code, (before, after) in found.findings.items():
        yield f"  {code}: {before:,} -> {after:,} ({after - before:+,})"
    for name, (share, then) in found.tendencies.items():
        yield f"  {name}: {share:.1%} -> {then:.1%}"


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The comparison as plain values."""
    return asdict(found)


def _pairs(columns: Columns, *, swapped: bool = False) -> Hashes:
    sides = (columns.rejected, columns.chosen) if swapped else (columns.chosen, columns.rejected)
    rows = columns.is_pair
    return np.unique(mixed(columns.prompt[rows], *(side[rows] for side in sides)))


def _findings(old: Inspection, new: Inspection) -> dict[str, tuple[int, int]]:
    counts = [{f.code: max(len(f.rows), 1) for f in found.findings} for found in (old, new)]
    codes = sorted(counts[0].keys() | counts[1].keys())
    return {code: (counts[0].get(code, 0), counts[1].get(code, 0)) for code in codes}
