"""A judge that PPO never optimises against, asked all along the run."""

from collections.abc import Sequence
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.callbacks.checkpoints import batches_done
from rlhf_forge.data.functions import load_function
from rlhf_forge.data.tokenize import PromptExample
from rlhf_forge.evaluation.policies import Answers, judged
from rlhf_forge.evaluation.statistics import mean_of
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.responses import generated_held_out


class Judge(Callback):
    """Logs ``judge/score``, and ``judge/accuracy`` if the judge tells, on held-out prompts.

    Judged are the first policy, and what an iteration makes of it: every so many, and the last.

    Args:
        function: module:function, called as in `rlhf_forge.evaluation.judges.judge`.
        number: Prompts, the first of the held-out ones.
        every: Iterations between judgements.
    """

    def __init__(self, function: str, number: int = 128, every: int = 2) -> None:
        if number < 1 or every < 1:
            raise ValueError(f"number and every must be 1 or more, got {number} and {every}")
        load_function(function)  # a mistyped one is found before the first iteration
        self.function, self.number, self.every = function, number, every

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(pl_module, PPOModule) and pl_module.iteration == 0:
            self._write(trainer, self._ask(pl_module), 0)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        done = batches_done(trainer)
        due = done % self.every == 0 or done == trainer.limit_train_batches
        if isinstance(pl_module, PPOModule) and due:
            found = self._ask(pl_module)
            self._write(trainer, found, done)
            pl_module.log_dict(found, logger=False)  # for who keeps the best

    def _ask(self, module: PPOModule) -> dict[str, float]:
        examples = cast("Sequence[PromptExample]", module.held_out[: self.number])
        prompts = [example.tokens for example in examples]
        responses = generated_held_out(module, module.role, prompts)
        texts = [module.template.decode(response.tokens) for response in responses]
        answers = Answers(texts, responses, None)
        verdict = ranks.from_first(lambda: judged(self.function, examples, answers))
        found = {"judge/score": mean_of(verdict.scores).value}
        if verdict.correct is not None:
            found["judge/accuracy"] = mean_of(verdict.correct).value
        return found

    def _write(self, trainer: Trainer, found: dict[str, float], done: int) -> None:
        """Where the chart has as many iterations as the judged policy has behind it."""
        for logger in trainer.loggers:
            logger.log_metrics(found, step=done)
