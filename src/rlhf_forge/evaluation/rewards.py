"""What responses are worth to a run: to its reward model, to Python functions, or to both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from threading import Thread
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf_forge.data.functions import load_function
from rlhf_forge.data.records import Conversation
from rlhf_forge.errors import UserError
from rlhf_forge.evaluation.judges import judge
from rlhf_forge.reward_terms import RewardTerm, names_function

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """Responses as a function is given them, one entry a response.

    Attributes:
        prompts: The conversations up to the responses.
        responses: Texts, without control tokens.
        records: The rows of the data, with ``finished``: False where the length limit cut.
    """

    prompts: Sequence[Conversation]
    responses: Sequence[str]
    records: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Reward:
    """The weighted sum of its terms; of a single reward model simply its normalised scores.

    Args:
        terms: At least one; at most one of them a reward model.
        timeout: Seconds that each function has for the responses it is given; None: no limit.

    Raises:
        ValueError: If there is no term, a second reward model, or a weight that says nothing.
        UserError: If there is no such function.
    """

    terms: Sequence[RewardTerm]
    timeout: float | None = None

    def __post_init__(self) -> None:
        models = [term for term in self.terms if not names_function(term.source)]
        if not self.terms or len(models) > 1:
            raise ValueError(
                f"reward must have one term or more, and one reward model at most, got "
                f"{len(self.terms)} and {len(models)}"
            )
        for term in self.terms:
            if not isfinite(term.weight) or term.weight == 0:
                raise ValueError(
                    f"reward must have weights that are finite and not 0, got {term.weight}"
                )
        for function in self.functions:
            _require_function(str(function.source))

    @property
    def model(self) -> RewardTerm | None:
        """The term of the reward model, if there is one."""
        return next((term for term in self.terms if not names_function(term.source)), None)

    @property
    def artefact(self) -> str | None:
        """Folder of the reward model."""
        return None if self.model is None else str(self.model.source)

    @property
    def model_weight(self) -> float:
        """What its scores are multiplied by."""
        return 0.0 if self.model is None else self.model.weight

    @property
    def functions(self) -> list[RewardTerm]:
        """The other terms."""
        return [term for term in self.terms if names_function(term.source)]

    def scores(
        self,
        of_model: Float[Tensor, "batch"],
        asked: Callable[[], Asked],
        *,
        when: str,
    ) -> Float[Tensor, "batch"]:
        """The score of each response.

        Args:
            of_model: Normalised scores of the reward model; not read without one.
            asked: The responses as functions are given them; not called without a function.
            when: What to call them in a message, such as "iteration 3".

        Raises:
            UserError: If a function fails, takes too long, or gives no finite number for each
                response.
        """
        total = torch.zeros_like(of_model) if self.model is None else self.model_weight * of_model
        if self.functions:
            given = asked()
            for term in self.functions:
                total += term.weight * self._of(str(term.source), given, when).to(total)
        return total

    def _of(self, function: str, asked: Asked, when: str) -> Float[Tensor, "batch"]:
        def ask() -> list[float]:
            return judge(function, asked.prompts, asked.responses, asked.records).scores

        try:
            scores = torch.tensor(_in_time(ask, self.timeout), dtype=torch.float32)
        except TimeoutError:
            raise UserError(
                f"reward, {when}: {function}: took longer than {self.timeout:g} s for "
                f"{len(asked.responses)} responses",
                hint="raise model.init_args.reward_timeout; --ckpt_path last goes on from the "
                "last checkpoint",
            ) from None
        except UserError as error:
            raise UserError(f"reward, {when}: {error}", hint=error.hint) from error
        odd = (~scores.isfinite()).nonzero().flatten().tolist()
        if odd:
            raise UserError(
                f"reward, {when}: {function}: gave {scores[odd[0]].item()} for response "
                f"{odd[0]} of {len(scores)}, and a score must be a finite number"
            )
        return scores


def _require_function(path: str) -> None:
    try:
        load_function(path)
    except UserError as error:
        raise UserError(f"model.init_args.reward: {error}", hint=error.hint) from error


def _in_time(function: Callable[[], T], seconds: float | None) -> T:
    """What a function returns or raises, if it does so in time.

    It runs in a thread that nobody waits for, so one that hangs keeps no process alive.

    Raises:
        TimeoutError: If it does not.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


MODEL_ALONE = Reward((RewardTerm(),))
