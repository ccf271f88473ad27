"""The faults that ``python -m tests.mutants`` makes can still be made."""

import ast
from dataclasses import fields

import pytest

from rlhf_forge.modules.reward_update import PairLoss
from rlhf_forge.modules.settings import ObjectiveSettings, RolloutSettings, UpdateSettings
from tests.mutants.__main__ import MUTANTS
from tests.mutants.change import TESTS, Mutant, mutated
from tests.mutants.copy import PACKAGE, ROOT
from tests.mutants.unread import SIZES, UNREAD

KEYS = {
    "rollout": RolloutSettings,
    "objective": ObjectiveSettings,
    "updates": UpdateSettings,
    "reward": PairLoss,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_what_a_fault_replaces_stands_in_the_source_exactly_once(mutant: Mutant) -> None:
    texts = {change.path: (ROOT / PACKAGE / change.path).read_text() for change in mutant.changes}
    before = dict(texts)
    for change in mutant.changes:
        texts[change.path] = mutated(texts[change.path], change)
    for path, text in texts.items():
        assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(before[path]))


def test_no_two_faults_are_one() -> None:
    assert len({mutant.fault for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant.changes for mutant in MUTANTS}) == len(MUTANTS)


def test_the_tests_that_are_asked_are_there() -> None:
    assert all((ROOT / "tests" / test).is_file() for tests in TESTS.values() for test in tests)


def test_for_every_key_of_ppo_and_of_the_rewards_loss_there_is_the_fault_that_it_is_not_read() -> (
    None
):
    keys = {f"{group}.{field.name}" for group, kind in KEYS.items() for field in fields(kind)}
    unread = {mutant.fault.split()[0].rstrip(",") for mutant in UNREAD}
    assert keys - SIZES == {key for key in unread if "." in key}
