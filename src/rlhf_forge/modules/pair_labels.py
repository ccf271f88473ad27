"""What is known of a pair beside its order, and not read by a stage: told, not dropped."""

from collections.abc import Callable, Mapping, Sequence

from rlhf_forge.data.tokenize import PairExample

LABELS: dict[str, Callable[[PairExample], bool]] = {
    "a margin": lambda pair: pair.record.margin is not None,
    "a preference": lambda pair: pair.record.preference is not None,
    "a weight, being of a ranking": lambda pair: pair.weight != 1.0,
}


def unread(pairs: Sequence[PairExample], why: Mapping[str, str]) -> list[str]:
    """A line for each label that some pairs have and the stage does not read.

    Args:
        pairs: That are trained on.
        why: By label, a key of `LABELS`, why it is not read.
    """
    counts = {label: sum(map(LABELS[label], pairs)) for label in why}
    return [
        f"data: {count} of {len(pairs)} pairs have {label}, which is not read: {why[label]}"
        for label, count in counts.items()
        if count
    ]
