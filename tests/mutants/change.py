"""A fault as a change of the source, and the tests that ought to notice it."""

from dataclasses import dataclass

LOSSES = "functional/losses.py"
ADVANTAGES = "functional/advantages.py"
MASKING = "functional/masking.py"
KL = "functional/kl.py"
PPO = "modules/ppo.py"
COLLECT = "modules/ppo_rollout.py"
UPDATE = "modules/ppo_update.py"
ESTIMATORS = "modules/ppo_estimators.py"
OPTIMISATION = "modules/optimisation.py"
ROLES = "modules/roles.py"
SFT = "modules/sft.py"
REWARD = "modules/reward.py"
REWARD_UPDATE = "modules/reward_update.py"
SPLITS = "data/splits.py"
PREFERENCES = "data/preferences.py"
ROLLOUT = "rollout.py"
ENGINE = "generation/engine.py"
CACHE = "generation/cache.py"
SAMPLER = "generation/sampler.py"
ROWS = "generation/rows.py"
SCORING = "backbone/scoring.py"

# Of each file those tests that its faults are shown to, quick ones first.
TESTS = {
    LOSSES: ["functional/test_losses.py"],
    ADVANTAGES: ["functional/test_advantages.py"],
    MASKING: ["functional/test_masking.py"],
    KL: ["functional/test_kl.py"],
    PPO: ["modules/test_ppo.py", "modules/test_exact_optimum.py"],
    COLLECT: ["modules/test_ppo.py", "test_ensemble.py"],
    UPDATE: ["modules/test_ppo_update.py", "modules/test_ppo.py", "modules/test_exact_optimum.py"],
    ESTIMATORS: ["modules/test_ppo_estimators.py", "modules/test_ppo.py"],
    OPTIMISATION: ["modules/test_optimisation.py"],
    ROLES: ["modules/test_roles.py"],
    SFT: ["modules/test_splits.py"],
    REWARD: ["modules/test_reward_update.py", "modules/test_splits.py"],
    REWARD_UPDATE: ["modules/test_reward_update.py", "modules/test_splits.py"],
    SPLITS: ["data/test_splits.py"],
    PREFERENCES: ["data/test_golden.py"],
    ROLLOUT: ["test_rollout.py", "modules/test_exact_optimum.py"],
    ENGINE: ["generation/test_decode.py"],
    CACHE: ["generation/test_decode.py"],
    SAMPLER: ["generation/test_sampler.py"],
    ROWS: ["generation/test_rows.py"],
    SCORING: ["backbone/test_scoring.py"],
}


@dataclass(frozen=True)
class Change:
    """One replacement of text.

    Attributes:
        path: Of the file, in the package.
        old: What stands there exactly once.
        new: What is put in its place.
    """

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A fault, and how it is made.

    Attributes:
        fault: What is wrong.
        changes: All of them together.
    """

    fault: str
    changes: tuple[Change, ...]

    @property
    def tests(self) -> list[str]:
        """The test files that it is shown to, from the root of the project."""
        named = dict.fromkeys(test for change in self.changes for test in TESTS[change.path])
        return [f"tests/{test}" for test in named]


def mutant(fault: str, path: str, old: str, new: str, *more: Change) -> Mutant:
    """A fault that begins with one change."""
    return Mutant(fault, (Change(path, old, new), *more))


def mutated(text: str, change: Change) -> str:
    """A file's text with the change made.

    Raises:
        ValueError: If what is to be replaced does not stand there exactly once.
    """
    if (count := text.count(change.old)) != 1:
        raise ValueError(f"{change.path} holds {count} times: {change.old!r}")
    return text.replace(change.old, change.new)
