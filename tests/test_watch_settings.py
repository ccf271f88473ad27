"""What the key ``watch`` may not say, and what it keeps."""

from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_forge.stage_config import Best
from rlhf_forge.watch_settings import WatchSettings, mistakes_in_watch

JUDGE = {"judge": "mine:score"}


def told(watch: dict[str, Any] | None, *, stage: str = "ppo", **more: Any) -> list[str]:
    objective = SimpleNamespace(kl_target=more.get("kl_target"))
    model = SimpleNamespace(init_args=SimpleNamespace(objective=objective))
    config = SimpleNamespace(watch=watch, model=model, keep_best=more.get("keep_best"))
    return [str(mistake) for mistake in mistakes_in_watch(config, stage)]


@pytest.mark.parametrize(
    "watch",
    [
        None,
        {},
        JUDGE,
        JUDGE | {"action": "stop"},
        JUDGE | {"action": "raise_kl_coef"},
        {"kl_budget": 8.0},
        JUDGE | {"keep": "last"},
    ],
)
def test_a_watch_that_holds_together_is_taken(watch: dict[str, Any] | None) -> None:
    assert told(watch) == []


@pytest.mark.parametrize(
    ("watch", "mistake"),
    [
        ({"every": 0}, "watch.every: must be 1 or more, got 0"),
        ({"number": 0}, "watch.number: must be 1 or more, got 0"),
        (
            {"action": "stop"},
            "watch.action: stop is for when a judge does not follow, and there is none",
        ),
        ({"kl_budget": 0.0}, "watch.kl_budget: must be above 0 and finite, got 0.0"),
        (
            {"kl_budget": float("inf")},
            "watch.kl_budget: must be above 0 and finite, got inf",
        ),
        (
            {"kl_budget": 8.0, "keep": "last"},
            "watch.keep: must be best with a kl_budget, got last: the last state is beyond it",
        ),
    ],
)
def test_one_that_does_not_is_told(watch: dict[str, Any], mistake: str) -> None:
    assert told(watch) == [mistake]


def test_only_ppo_is_watched() -> None:
    assert told(JUDGE, stage="dpo") == ["watch: for PPO, and this is stage dpo"]
    assert told(None, stage="dpo") == []


def test_two_may_not_steer_the_price_of_kl() -> None:
    assert told(JUDGE | {"action": "stop"}, kl_target=6.0) == []
    [mistake] = told(JUDGE | {"action": "raise_kl_coef"}, kl_target=6.0)
    assert "objective.kl_target" in mistake


def test_within_a_budget_only_the_watch_s_own_metrics_keep_the_best() -> None:
    budget = {"kl_budget": 8.0}
    [mistake] = told(budget, keep_best=Best("val/score"))
    assert mistake == "keep_best.metric: val/score does not know of watch.kl_budget"
    assert told(budget, keep_best=Best("watch/score")) == []


@pytest.mark.parametrize(
    ("watch", "kept_by"),
    [
        ({}, None),
        (JUDGE, "judge/score"),
        (JUDGE | {"keep": "last"}, None),
        ({"kl_budget": 8.0}, "watch/score"),
        (JUDGE | {"kl_budget": 8.0}, "judge/score"),
    ],
)
def test_the_best_is_kept_where_somebody_can_tell_which(
    watch: dict[str, Any], kept_by: str | None
) -> None:
    assert WatchSettings(**watch).kept_by == kept_by
