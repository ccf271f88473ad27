"""Rules about what became of the policy."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from rlhf_forge.reporting.run import Run, duel_of
from rlhf_forge.reporting.stage import Stage
from rlhf_forge.reporting.verdicts import Look, Verdict

Z95 = 1.96
MOST_FALL = 0.03
LEAST_KL, MOST_KL, BAD_KL = 0.1, 30.0, 100.0
MOST_RATIO, BAD_RATIO = 1.25, 2.0
LEAST_EOS, BAD_EOS = 0.9, 0.5
LEAST_DISTINCT, BAD_DISTINCT = 0.5, 0.2


def gain(run: Run) -> Iterator[Look]:
    """Whether the policy scores above what it started at."""
    policy = run.policy
    if run.summary is not None:
        yield _evaluated_gain(run.summary)
    elif policy is not None and (scores := policy.values("objective/score")):
        yield Look(
            "gain",
            "doubtful",
            f"{policy.name} was not evaluated; its own reward went from {scores[0]:.3g} to "
            f"{scores[-1]:.3g} in training",
        )


def accuracy(run: Run) -> Iterator[Look]:
    """Whether what the judge calls right has become rarer."""
    pair = _before_after(run)
    if pair is None or None in {row["accuracy"] for row in pair}:
        return
    before, after = (row["accuracy"] for row in pair)
    # Unpaired, so wider than need be: the summary holds no single answers.
    spread = sum(row["accuracy"] * (1 - row["accuracy"]) / row["n"] for row in pair) ** 0.5
    highest = after + Z95 * spread - before
    verdict: Verdict = "good" if highest >= 0 else "doubtful"
    if highest < -MOST_FALL:
        verdict = "bad"
    text = f"accuracy by the judge went from {before:.3f} to {after:.3f}"
    yield Look("accuracy", verdict, f"{text} (standard error of the difference {spread:.3f})")


def watch(run: Run) -> Iterator[Look]:
    """What was said while PPO was watched."""
    for stage in run.stages:
        if not stage.watch:
            continue
        said = [(row["iteration"], text) for row in stage.watch for text in row["findings"]]
        if not said:
            told = f"{len(stage.watch)} readings of {stage.name}, and nothing was found"
            yield Look("watch", "good", told)
            continue
        kept = _kept(stage)
        lost = "judge" in kept and kept["judge"] < stage.watch[0]["judge"]
        iteration, text = said[-1]
        more = f" ({len(said) - 1} said before)" if len(said) > 1 else ""
        told = f"{stage.name}, behind iteration {iteration}: {text}{more}"
        yield Look("watch", "bad" if lost else "doubtful", told)


def kl(run: Run) -> Iterator[Look]:
    """How far the policy has gone from where it started."""
    pair, policy = _before_after(run), run.policy
    if policy is None:
        return
    nats = policy.last("objective/kl") if pair is None else pair[1]["kl"]
    if nats is None:
        return
    verdict: Verdict = "good" if LEAST_KL <= nats <= MOST_KL else "doubtful"
    text = f"{policy.name} is {nats:.3g} nats a response from what it started at"
    yield Look("kl", "bad" if nats > BAD_KL else verdict, text)


def length(run: Run) -> Iterator[Look]:
    """Whether responses have become longer or shorter."""
    before, after = _ends(run, "length", "rollout/length")
    if before is None or after is None:
        return
    ratio = max(before, after) / max(min(before, after), 1e-9)
    verdict: Verdict = "good" if ratio <= MOST_RATIO else "doubtful"
    text = f"the mean response went from {before:.3g} to {after:.3g} tokens"
    yield Look("length", "bad" if ratio > BAD_RATIO else verdict, text)


def endings(run: Run) -> Iterator[Look]:
    """Whether responses end by themselves."""
    before, after = _ends(run, "eos", "rollout/eos_fraction")
    if before is None or after is None:
        return
    verdict: Verdict = "good" if after >= LEAST_EOS else "doubtful"
    text = f"{after:.1%} of the responses end by themselves; before it were {before:.1%}"
    yield Look("endings", "bad" if after < BAD_EOS else verdict, text)


def sameness(run: Run) -> Iterator[Look]:
    """Whether one answer is given to everything."""
    if run.summary is None or not run.responses:
        return
    first, start = duel_of(run.summary)
    texts = {
        name: Counter(row["models"][name]["text"] for row in run.responses)
        for name in (start, first)
    }
    before, after = len(texts[start]), len(texts[first])
    verdict: Verdict = "good" if after >= LEAST_DISTINCT * before else "doubtful"
    text = (
        f"{after:,} different texts of {first} to {len(run.responses):,} prompts, "
        f"{before:,} of {start}; the commonest of {first} stands {max(texts[first].values()):,} "
        "times"
    )
    yield Look("sameness", "bad" if after < BAD_DISTINCT * before else verdict, text)


def _evaluated_gain(summary: dict[str, Any]) -> Look:
    first, start = duel_of(summary)
    gained, se, win = summary["gain"]["gold"], summary["gain"]["se"], summary["win_rate"]
    text = (
        f"{first} scores {gained:+.3g} (standard error {se:.2g}, paired by prompt) beside {start} "
        f"on {summary['models'][first]['n']:,} held-out prompts, and wins "
        f"{win[f'{first}_vs_{start}']:.0%} ({win['low']:.0%} to {win['high']:.0%})"
    )
    if gained + Z95 * se < 0:
        return Look("gain", "bad", text)
    if summary.get("judge") is None:
        own = (
            "the judge is the reward it was trained on" if "judge" in summary else "no judge named"
        )
        return Look("gain", "doubtful", f"{text}; {own}, so it need not be better to anyone else")
    return Look("gain", "good" if gained - Z95 * se > 0 else "doubtful", text)


def _kept(stage: Stage) -> dict[str, Any]:
    """The reading of the policy that became the artefact; the last one if none did."""
    steps = None if stage.artefact is None else stage.artefact["steps"]
    readings = {row["iteration"]: row for row in stage.watch}
    return readings.get(steps, stage.watch[-1])


def _before_after(run: Run) -> list[dict[str, Any]] | None:
    """The rows of the start and of the first policy in the summary."""
    if run.summary is None:
        return None
    first, start = duel_of(run.summary)
    return [run.summary["models"][start], run.summary["models"][first]]


def _ends(run: Run, key: str, tag: str) -> tuple[float | None, float | None]:
    """A number of the start and of the policy; by what training logged, if none was evaluated."""
    pair = _before_after(run)
    if pair is not None:
        return pair[0][key], pair[1][key]
    policy = run.policy
    values = policy.values(tag) if policy else []
    return (values[0], values[-1]) if values else (None, None)
