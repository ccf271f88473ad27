"""What is watched, or done, in processes that train together; named by `several.fit`.

Each function is called in a process before it begins, and given the process's number.
"""

import os
import signal
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlhf_forge.generation.decode import generate
from rlhf_forge.modules import responses
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.ppo_update import UpdateStats
from rlhf_forge.rollout import Experience, Plan

Note = dict[str, Any]


class KilledError(Exception):
    """Stands for the end of the processes in the middle of a run."""


def notes(run: str, number: int) -> list[Note]:
    """What `noting` saw in a process of a run, iteration by iteration."""
    found: list[Note] = torch.load(f"seen-{run}-{number}.pt", weights_only=False)
    return found


def ends_often(number: int) -> None:
    """An eighth of all tokens end a response, so that lengths are uneven and most are finished."""

    def ending(backbone: Any, requests: Any, sampling: Any, _: Any, **options: Any) -> Any:
        return generate(backbone, requests, sampling, frozenset(range(0, 512, 8)), **options)

    vars(responses)["generate"] = ending


def noting(number: int) -> None:
    """Keeps rollouts, advantages, updates and the price of KL, and a hash of the weights."""
    ends_often(number)
    learn, seen = PPOModule.learn, list[Note]()

    def noted(self: PPOModule, experience: Experience, plan: Plan) -> list[UpdateStats]:
        updates = learn(self, experience, plan)
        seen.append(
            {
                "tokens": experience.tokens,
                "mask": experience.mask,
                "advantages": experience.advantages,
                "updates": [asdict(update) for update in updates],
                "kl_coef": self.kl_coef,
                "weights": hash_of(self),
            }
        )
        torch.save(seen, f"seen-{Path(self.trainer.default_root_dir).parent.name}-{number}.pt")
        return updates

    PPOModule.learn = noted  # type: ignore[method-assign]


def poisoned(number: int) -> None:
    """On the second process a gradient of the second iteration's first step is not a number."""
    noting(number)
    accumulate, done = PPOModule._accumulate, list[bool]()

    def poisoning(self: PPOModule, *arguments: Any) -> UpdateStats:
        stats = accumulate(self, *arguments)
        if number == 1 and self.iteration == 1 and not done:
            done.append(True)
            parameter = next(iter(self.backbone.parameters_of("policy")))
            parameter.grad = torch.full_like(parameter, torch.nan)
        return stats

    PPOModule._accumulate = poisoning  # type: ignore[method-assign,assignment]


def killed(number: int) -> None:
    """All die when they begin the third iteration."""
    noting(number)
    step = PPOModule.training_step

    def dying(self: PPOModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            raise KilledError
        return step(self, batch, batch_idx)

    PPOModule.training_step = dying  # type: ignore[method-assign]


def killed_in_a_step(number: int) -> None:
    """kill -9 when the twentieth step begins."""
    _signalled(signal.SIGKILL, step=19)


def terminated(number: int) -> None:
    """The second process is told to end, the first is not."""
    if number == 1:
        _signalled(signal.SIGTERM, step=1)


def interrupted(number: int) -> None:
    """Ctrl-C reaches the second process only."""
    if number == 1:
        _signalled(signal.SIGINT, step=1)


def _signalled(what: signal.Signals, *, step: int) -> None:
    from rlhf_forge.modules.sft import SFTModule

    training_step = SFTModule.training_step

    def noisy(self: SFTModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx == step:
            signal.raise_signal(what)
        return training_step(self, batch, batch_idx)

    SFTModule.training_step = noisy  # type: ignore[method-assign]


def hash_of(module: nn.Module) -> str:
    digest = sha256()
    for parameter in module.parameters():
        if parameter.requires_grad:
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def lengths(prompts: Sequence[Any], texts: Sequence[str], records: Sequence[Any]) -> list[int]:
    """A reward, which leaves a line in a file for each call of a process."""
    with Path(f"called-{os.environ.get('RANK', '0')}.txt").open("a") as file:
        file.write(f"{len(texts)}\n")
    return [len(text) % 7 for text in texts]


def fails(prompts: Sequence[Any], texts: Sequence[str], records: Sequence[Any]) -> list[int]:
    raise RuntimeError("no scores today")
