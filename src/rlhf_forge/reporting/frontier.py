"""Score against KL along PPO, and the policy of it that was kept."""

import math
from dataclasses import dataclass
from typing import Any

from rlhf_forge.reporting.stage import Stage


@dataclass(frozen=True)
class Frontier:
    """A score at each KL that the policy went through.

    Attributes:
        stage: That the policy is of.
        score: Whose: judge or reward.
        source: Where the points are from: the watch, on held-out prompts, or training.
        iterations: Behind which each point stands.
        kl: Nats per response.
        values: The scores.
        chosen: Number of the point that became the artefact; None if none of them did.
        fit: alpha, beta and peak of the curve that the watch fitted; None if there is none.
    """

    stage: str
    score: str
    source: str
    iterations: list[int]
    kl: list[float]
    values: list[float]
    chosen: int | None
    fit: dict[str, Any] | None = None

    def fitted(self, number: int = 60) -> tuple[list[float], list[float]]:
        """KL and score along the fitted curve: R(d) = d (alpha - beta log d), where d = sqrt(KL).

        It begins at the first point's score, which is that of the policy's start.
        """
        if self.fit is None:
            return [], []
        alpha, beta, most = self.fit["alpha"], self.fit["beta"], max(self.kl)
        kl = [most * at / number for at in range(1, number + 1)]
        gains = [math.sqrt(x) * (alpha - beta * math.log(math.sqrt(x))) for x in kl]
        return [0.0, *kl], [self.values[0], *(self.values[0] + gain for gain in gains)]


def frontiers_of(stage: Stage) -> list[Frontier]:
    """That of the judge and of the reward, by the watch; else what training logged."""
    if stage.watch:
        scores = {"judge": "judge", "reward": "score"}
        return [_watched(stage, of, key) for of, key in scores.items() if key in stage.watch[0]]
    if stage.kind != "ppo" or not {"objective/kl", "objective/score"} <= stage.curves.keys():
        return []
    kl, score = (stage.curves[f"objective/{name}"].by_step() for name in ("kl", "score"))
    steps = [step for step in kl if step in score]
    # The policy of the artefact has sampled no batch: the one before it did last.
    last = None if stage.artefact is None else stage.artefact["steps"] - 1
    chosen = steps.index(last) if last in steps else None
    values = [score[step] for step in steps]
    kls = [kl[step] for step in steps]
    return [Frontier(stage.name, "reward", "training", steps, kls, values, chosen)]


def _watched(stage: Stage, of: str, key: str) -> Frontier:
    rows = stage.watch
    iterations = [row["iteration"] for row in rows]
    kept = None if stage.artefact is None else stage.artefact["steps"]
    return Frontier(
        stage.name,
        of,
        "the watch",
        iterations,
        [row["kl"] for row in rows],
        [row[key] for row in rows],
        iterations.index(kept) if kept in iterations else None,
        rows[-1].get("frontier") if of == "judge" else None,
    )
