"""The watch over PPO: a judge that it never optimises against, findings in words, and a limit."""

import json
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.callbacks.checkpoints import batches_done
from rlhf_forge.data.functions import load_function
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.evaluation.diversity import distinct_bigrams, repetition
from rlhf_forge.evaluation.findings import OVER_OPTIMISED, Finding, findings_in
from rlhf_forge.evaluation.judges import Judgement
from rlhf_forge.evaluation.policies import facts_of, judged
from rlhf_forge.evaluation.readings import (
    Reading,
    frontier_of,
    kept_by_judge,
    rise_at_equal_length,
)
from rlhf_forge.evaluation.report_card import read_report
from rlhf_forge.evaluation.statistics import mean_of
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.watched import JUDGE, Watched, add_judge, watched
from rlhf_forge.reward_terms import names_function
from rlhf_forge.watch_settings import JUDGED, REWARDED, WatchSettings

# What the action raise_kl_coef makes of the price of a nat, each time the watch speaks; a run that
# asked nothing for it begins with what PPO asks by default.
RAISE = 2.0
LEAST_KL_COEF = 0.05
# What was said is said again where it has become so many times as bad. The price rises by as much
# each time, and so stays in proportion to the trouble, however long that lasts.
AGAIN = RAISE
COLUMNS = 80
# What a checkpoint holds of the watch, beside the readings.
STATE = ("spoken", "said", "stopped")


class Watch(Callback):
    """Reads the policy on fixed held-out prompts: where PPO starts, every so often, and at its end.

    A reading goes to ``watch.jsonl``, the judge's mean to the loggers. Means of judge and reward
    are there for who keeps the best state. What the readings tell is said on stderr and in
    TensorBoard when it is new, and again each time it has become twice as bad.

    Args:
        settings: The key ``watch`` of a config.

    Raises:
        UserError: If the judge is a function that is not there.
    """

    def __init__(self, settings: WatchSettings) -> None:
        self.settings = settings
        self.function = settings.judge if names_function(settings.judge) else None
        if self.function is not None:
            load_function(self.function)  # a mistyped one is found before the first iteration
        self.artefact = settings.judge if self.function is None else None
        self.readings: list[Reading] = []
        self.spoken: dict[str, int] = {}
        self.said: list[dict[str, Any]] = []
        self.stopped = False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.artefact is not None:
            add_judge(cast("PPOModule", pl_module), self.artefact)
            _say_of_card(Path(self.artefact))

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # From a checkpoint behind its stop the run would otherwise go on.
        trainer.should_stop = trainer.should_stop or self.stopped
        if isinstance(pl_module, PPOModule) and not self.readings:
            self._read(trainer, pl_module, 0)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if not isinstance(pl_module, PPOModule):
            return
        done = batches_done(trainer)
        kl = float(trainer.callback_metrics["objective/kl"])
        due = done % self.settings.every == 0 or done == trainer.limit_train_batches
        if due or self._is_beyond(kl):
            findings = self._read(trainer, pl_module, done)
            self._act(trainer, pl_module, findings)
            kl = max(kl, self.readings[-1].kl)
        if self._is_beyond(kl):
            budget = self.settings.kl_budget
            self._stop(trainer, f"a KL of {kl:.1f} nats is beyond watch.kl_budget, {budget:g}")

    @override
    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self, name) for name in STATE}
        return state | {"readings": [asdict(reading) for reading in self.readings]}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in STATE:
            setattr(self, name, state_dict[name])
        self.readings = [Reading(**fields) for fields in state_dict["readings"]]

    def _is_beyond(self, kl: float) -> bool:
        budget = self.settings.kl_budget
        return budget is not None and kl > budget

    def _read(self, trainer: Trainer, module: PPOModule, done: int) -> list[Finding]:
        """Take a reading and write it down.

        Returns:
            What is said of it.
        """
        reading = self._reading(module, done)
        self.readings.append(reading)
        found = findings_in(self.readings)
        news, self.spoken = news_of(found, self.spoken)
        self.said += [{"iteration": done, "kind": f.kind, "text": f.text} for f in news]
        shown = {}
        if reading.judged:
            shown["judge/score"] = reading.judge
        if reading.accuracy is not None:
            shown["judge/accuracy"] = reading.accuracy
        if not self._is_beyond(reading.kl):
            # For who keeps the best; a module may not log before its first step.
            means = {REWARDED: reading.score, **shown}
            if not self._is_to_be_kept(reading):
                del means[JUDGED]
            trainer.callback_metrics.update({k: torch.tensor(v) for k, v in means.items()})
        for logger in trainer.loggers:
            # Where the chart has as many iterations as the policy has behind it.
            logger.log_metrics(shown, step=done)
        _write(Path(trainer.default_root_dir) / "watch.jsonl", self.readings, self.said)
        for finding in news:
            _say(trainer, done, finding.text)
        return news

    def _is_to_be_kept(self, reading: Reading) -> bool:
        if not reading.judged or self.settings.keep == "last":
            return True
        return reading is kept_by_judge([r for r in self.readings if not self._is_beyond(r.kl)])

    def _reading(self, module: PPOModule, done: int) -> Reading:
        examples = cast("Sequence[PromptExample]", module.held_out[-self.settings.number :])
        models = [] if self.artefact is None else [JUDGE]
        seen = watched(module, examples, models=models, when=f"the watch behind iteration {done}")
        verdict = self._verdict(examples, seen)
        correct = None if verdict is None else verdict.correct
        return reading_of(
            seen,
            done,
            judged=[] if verdict is None else verdict.scores,
            accuracy=None if correct is None else mean_of(correct).value,
        )

    def _verdict(self, examples: Sequence[PromptExample], seen: Watched) -> Judgement | None:
        if self.artefact is not None:
            return Judgement(seen.models[JUDGE], None)
        if self.function is None:
            return None
        function = self.function
        return ranks.from_first(lambda: judged(function, examples, seen.answers))

    def _act(self, trainer: Trainer, module: PPOModule, news: Sequence[Finding]) -> None:
        if not any(finding.kind in OVER_OPTIMISED for finding in news):
            return
        if self.settings.action == "stop":
            self._stop(trainer, "the judge does not follow the reward, and watch.action is stop")
        elif self.settings.action == "raise_kl_coef":
            before, module.kl_coef = module.kl_coef, max(RAISE * module.kl_coef, LEAST_KL_COEF)
            _say(
                trainer,
                batches_done(trainer),
                f"the price of KL goes from {before:.3g} to {module.kl_coef:.3g} "
                "(watch.action is raise_kl_coef)",
            )

    def _stop(self, trainer: Trainer, why: str) -> None:
        if not self.stopped:
            _say(trainer, batches_done(trainer), f"the run stops here: {why}")
        self.stopped = trainer.should_stop = True


def news_of(
    found: Sequence[Finding], spoken: dict[str, int]
) -> tuple[list[Finding], dict[str, int]]:
    """What of a reading's findings is to be said, and by kind how bad it was when it was last said.

    What is not found any more may be said again. A judge that falls and one that does not rise are
    one trouble: readings that go to and fro between the two are no news, and an action does not
    follow anew.

    Args:
        found: In the last reading.
        spoken: What this returned for the one before.
    """
    kinds = {finding.kind for finding in found}
    lasting = kinds | (OVER_OPTIMISED if OVER_OPTIMISED & kinds else set())
    kept = {kind: severity for kind, severity in spoken.items() if kind in lasting}
    news = [finding for finding in found if finding.severity >= AGAIN * kept.get(finding.kind, 0)]
    return news, kept | {finding.kind: finding.severity for finding in news}


def reading_of(
    seen: Watched, done: int, *, judged: list[float], accuracy: float | None = None
) -> Reading:
    """What was seen behind iteration ``done``, as a reading."""
    tokens = [response.tokens for response in seen.answers.responses]
    facts = facts_of(seen.answers)
    return Reading(
        iteration=done,
        scores=seen.scores,
        lengths=[len(response) for response in tokens],
        kl=cast("float", facts["kl"]),
        eos=cast("float", facts["eos"]),
        repetition=repetition(tokens),
        distinct=distinct_bigrams(tokens),
        judged=judged,
        accuracy=accuracy,
    )


@rank_zero_only
def _write(path: Path, readings: Sequence[Reading], said: Sequence[dict[str, Any]]) -> None:
    """All readings, so that those of a run that was killed behind its checkpoint are gone."""
    rows = [_row(readings[:at], said) for at in range(1, len(readings) + 1)]
    lines = [json.dumps(row) + "\n" for row in rows]
    beside = path.with_name(f"{path.name}.tmp")
    beside.write_text("".join(lines), encoding="utf-8")
    beside.replace(path)


def _row(readings: Sequence[Reading], said: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the last reading, beside those before it."""
    first, reading = readings[0], readings[-1]
    of_judge: dict[str, Any] = {}
    if reading.judged:
        of_judge = {"judge": reading.judge, "frontier": _frontier(readings)}
    if reading.accuracy is not None:
        of_judge["judge_accuracy"] = reading.accuracy
    return {
        "iteration": reading.iteration,
        "score": reading.score,
        "score_at_equal_length": first.score + rise_at_equal_length(first, reading),
        **of_judge,
        "kl": reading.kl,
        "length": reading.length,
        "eos": reading.eos,
        "repetition": reading.repetition,
        "distinct_bigrams": reading.distinct,
        "findings": [row["text"] for row in said if row["iteration"] == reading.iteration],
    }


def _frontier(readings: Sequence[Reading]) -> dict[str, Any] | None:
    """The curve fitted so far; null where an end of the peak's interval is infinite."""
    curve = frontier_of(readings)
    if curve is None:
        return None
    peak = curve.peak and {
        name: value if math.isfinite(value) else None
        for name, value in curve.peak._asdict().items()
    }
    return {"alpha": curve.alpha, "beta": curve.beta, "peak": peak}


@rank_zero_only
def _say(trainer: Trainer, done: int, text: str) -> None:
    """On stderr, and as text in TensorBoard."""
    line = f"watch, iteration {done}: {text}"
    sys.stderr.write(textwrap.fill(line, COLUMNS, subsequent_indent="  ") + "\n")
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("watch/findings", text, done)


@rank_zero_only
def _say_of_card(judge: Path) -> None:
    """Where it is bad: a judge that fails on known answers is not believed about unknown ones."""
    card = read_report(judge)
    if card is None or card.verdict != "bad":
        return
    names = ", ".join(check.name for check in card.of("bad"))
    line = f"watch.judge: the report card of {judge} is bad ({names}): do not trust it far"
    sys.stderr.write(textwrap.fill(line, COLUMNS, subsequent_indent="  ") + "\n")
