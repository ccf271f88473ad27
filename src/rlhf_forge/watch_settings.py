"""What a config may say of the watch over PPO: the key ``watch``."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from rlhf_forge.errors import UserError

JUDGED = "judge/score"
REWARDED = "watch/score"


@dataclass(frozen=True)
class WatchSettings:
    """Who looks at PPO on held-out prompts, how often, and what follows.

    Attributes:
        judge: What PPO never optimises against: module:function, or the artefact of another reward
            model on this base; none: only the reward itself is watched.
        every: Iterations between two readings; where PPO starts and ends is read as well.
        number: Prompts of a reading, at most; the last of the held-out ones.
        keep: Which state becomes the artefact: the best by the judge, or the last. Without a judge
            it is the last, and within a kl_budget the best by the reward.
        action: What is done where the judge's score has fallen, or does not rise with the reward:
            none, stop, or raise_kl_coef.
        kl_budget: Nats a response. The run stops behind the iteration that goes beyond, and the
            artefact is the best of the states within; none: no limit.
    """

    judge: str | None = None
    every: int = 10
    number: int = 128
    keep: Literal["best", "last"] = "best"
    action: Literal["none", "stop", "raise_kl_coef"] = "none"
    kl_budget: float | None = None

    @property
    def kept_by(self) -> str | None:
        """The metric by which the best state is kept; None: the last one is."""
        if self.keep == "last":
            return None
        if self.judge is not None:
            return JUDGED
        return REWARDED if self.kl_budget is not None else None


def mistakes_in_watch(config: Any, stage: str) -> Iterator[UserError]:
    """What the key ``watch`` of a parsed config says and may not.

    Args:
        config: Of one stage.
        stage: Which.
    """
    if config.watch is None:
        return
    if stage != "ppo":
        yield UserError(f"watch: for PPO, and this is stage {stage}", hint="leave it out")
        return
    watch = WatchSettings(**config.watch)
    for key in ("every", "number"):
        if getattr(watch, key) < 1:
            yield UserError(f"watch.{key}: must be 1 or more, got {getattr(watch, key)}")
    if watch.action != "none" and watch.judge is None:
        yield UserError(
            f"watch.action: {watch.action} is for when a judge does not follow, and there is none",
            hint="set watch.judge, or limit the KL by watch.kl_budget",
        )
    steered = config.model.init_args.objective.kl_target is not None
    if watch.action == "raise_kl_coef" and steered:
        yield UserError(
            "watch.action: raise_kl_coef and objective.kl_target would both set the price of KL",
            hint="leave kl_target out, or take another action",
        )
    yield from _mistakes_in_budget(watch, config.keep_best)


def _mistakes_in_budget(watch: WatchSettings, keep_best: Any) -> Iterator[UserError]:
    if watch.kl_budget is None:
        return
    if not 0 < watch.kl_budget < float("inf"):
        yield UserError(f"watch.kl_budget: must be above 0 and finite, got {watch.kl_budget}")
    if watch.keep == "last":
        yield UserError(
            "watch.keep: must be best with a kl_budget, got last: the last state is beyond it"
        )
    if keep_best is not None and keep_best.metric not in {JUDGED, REWARDED}:
        yield UserError(
            f"keep_best.metric: {keep_best.metric} does not know of watch.kl_budget",
            hint=f"take {JUDGED} or {REWARDED}, or leave keep_best out",
        )
