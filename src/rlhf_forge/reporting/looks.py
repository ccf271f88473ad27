"""What to look at first: all rules with their thresholds; docs/report.md has the same table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rlhf_forge.reporting import policy_rules as policy
from rlhf_forge.reporting import training_rules as training
from rlhf_forge.reporting.run import Run
from rlhf_forge.reporting.verdicts import WORST_FIRST, Look

FIRST = 3
"""So many are shown first."""


@dataclass(frozen=True)
class Rule:
    """A rule; what is neither good nor bad by it is doubtful.

    Attributes:
        find: Looks at a run; finds nothing where it has no such numbers.
        good: When it is good, in words.
        bad: When it is bad; "never" if it only ever casts doubt.
    """

    find: Callable[[Run], Iterator[Look]]
    good: str
    bad: str


RULES = {
    "unfinished": Rule(training.unfinished, "never", "a stage has left no artefact"),
    "gain": Rule(
        policy.gain,
        "its 95 % interval lies above 0, by a judge that was not the reward",
        "its 95 % interval lies below 0",
    ),
    "accuracy": Rule(
        policy.accuracy,
        "not shown to be lower: the 95 % interval of the change reaches 0",
        f"the interval lies below -{policy.MOST_FALL:g}",
    ),
    "watch": Rule(
        policy.watch,
        "nothing was found",
        "something was found, and the judge likes what was kept less than the start",
    ),
    "card": Rule(training.card, "the card says good", "the card says bad"),
    "reward_accuracy": Rule(
        training.reward_accuracy,
        f"the interval lies above {training.CHANCE:g}",
        f"the interval reaches {training.CHANCE:g}",
    ),
    "kl": Rule(
        policy.kl,
        f"{policy.LEAST_KL:g} to {policy.MOST_KL:g} nats",
        f"above {policy.BAD_KL:g} nats",
    ),
    "length": Rule(
        policy.length,
        f"within a factor of {policy.MOST_RATIO:g}",
        f"beyond a factor of {policy.BAD_RATIO:g}",
    ),
    "endings": Rule(
        policy.endings,
        f"{policy.LEAST_EOS:.0%} or more end by themselves",
        f"fewer than {policy.BAD_EOS:.0%} do",
    ),
    "sameness": Rule(
        policy.sameness,
        f"at least {policy.LEAST_DISTINCT:.0%} as many different texts as before",
        f"fewer than {policy.BAD_DISTINCT:.0%} as many",
    ),
    "overfitting": Rule(
        training.overfitting,
        f"at most {training.MOST_GAP:g} more of the training pairs than of the held-out ones",
        "never",
    ),
    "skipped": Rule(training.skipped, "no update was skipped", "never"),
    "critic": Rule(training.critic, "above 0 in the last third", "never"),
}
"""In the order in which they are told where one is as bad as another."""


def looks_at(run: Run) -> list[Look]:
    """What every rule that the run has numbers for finds, the worst first."""
    found = [look for rule in RULES.values() for look in rule.find(run)]
    return sorted(found, key=lambda look: WORST_FIRST.index(look.verdict))
