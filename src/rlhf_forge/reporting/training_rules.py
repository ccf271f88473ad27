"""Rules about how the stages were trained, and about the reward model."""

from collections.abc import Iterator
from statistics import fmean

from rlhf_forge.reporting.run import Run
from rlhf_forge.reporting.verdicts import Look, Verdict

CHANCE = 0.5
MOST_GAP = 0.1
SHOWN_CHECKS = 3


def unfinished(run: Run) -> Iterator[Look]:
    """A stage without an artefact."""
    for stage in run.stages:
        if stage.artefact is None:
            steps = [curve.steps[-1] for curve in stage.curves.values()]
            told = f"the last logged step is {max(steps):,}" if steps else "nothing was logged"
            yield Look("unfinished", "bad", f"{stage.name} has no artefact; {told}")


def card(run: Run) -> Iterator[Look]:
    """The reward model's report card."""
    for stage in run.stages:
        if stage.card is None:
            continue
        verdict: Verdict = stage.card["verdict"]
        worst = [check for check in stage.card["checks"] if check["verdict"] == verdict]
        shown = [f"{c['name']} {c['value']:.3g}: {c['reason']}" for c in worst[:SHOWN_CHECKS]]
        more = f"; and {len(worst) - SHOWN_CHECKS} more" if len(worst) > SHOWN_CHECKS else ""
        told = f"all {len(worst)} checks" if verdict == "good" else "; ".join(shown) + more
        yield Look("card", verdict, f"{stage.name}: {told}")


def reward_accuracy(run: Run) -> Iterator[Look]:
    """Whether the reward model is better than guessing, where it has no report card."""
    mixed = (run.summary or {}).get("reward", {}).get("mixed")
    if mixed is None or any(stage.card is not None for stage in run.stages):
        return
    verdict: Verdict = "good" if mixed["low"] > CHANCE else "bad"
    ceiling = mixed["ceiling"]
    most = "" if ceiling is None else f"; the labels' noise allows {ceiling:.3f}"
    yield Look(
        "reward_accuracy",
        verdict,
        f"the reward model sides with the labels on {mixed['accuracy']:.3f} "
        f"({mixed['low']:.3f} to {mixed['high']:.3f}) of {mixed['n']:,} held-out pairs{most}",
    )


def overfitting(run: Run) -> Iterator[Look]:
    """Whether pairs of training are told apart better than held-out ones."""
    for stage in run.of_kind("reward", "dpo"):
        train, held_out = stage.values(f"{stage.kind}/accuracy"), stage.last("val/accuracy")
        if not train or held_out is None:
            continue
        late = fmean(train[-max(len(train) // 10, 1) :])
        verdict: Verdict = "doubtful" if late - held_out > MOST_GAP else "good"
        text = (
            f"{stage.name} orders {late:.3f} of the pairs right in the last tenth of its training, "
            f"and {held_out:.3f} of the held-out ones"
        )
        yield Look("overfitting", verdict, text)


def skipped(run: Run) -> Iterator[Look]:
    """Updates that were not taken because a gradient was not finite."""
    lost = {
        f"{stage.name} {tag}": curve.total
        for stage in run.stages
        for tag, curve in stage.curves.items()
        if tag.endswith("/skipped")
    }
    if not lost:
        return
    some = [f"{number:.0f} in {tag}" for tag, number in lost.items() if number]
    if some:
        yield Look("skipped", "doubtful", f"updates that were not taken: {', '.join(some)}")
    else:
        yield Look("skipped", "good", "no update was skipped, in any stage")


def critic(run: Run) -> Iterator[Look]:
    """Whether the critic foresees more than a constant would."""
    for stage in run.of_kind("ppo"):
        explained = stage.values("value/explained_variance")
        if not explained:
            continue
        late = fmean(explained[-max(len(explained) // 3, 1) :])
        verdict: Verdict = "good" if late > 0 else "doubtful"
        text = f"{stage.name}: the critic's explained variance is {late:.2f} in the last third"
        yield Look("critic", verdict, text)
