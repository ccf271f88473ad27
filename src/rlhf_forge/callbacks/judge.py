"""A judge that PPO never optimises against, asked all along the run."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from rlhf_forge import ranks
from rlhf_forge.evaluation.judges import judge, load_function
from rlhf_forge.evaluation.statistics import mean_of
from rlhf_forge.generation.decode import Request
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.responses import HELD_OUT, generated


class Judge(Callback):
    """Logs ``judge/score``, and ``judge/accuracy`` if the judge tells, on held-out prompts.

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
        if isinstance(pl_module, PPOModule) and pl_module.iteration % self.every == 0:
            self._ask(pl_module)

    def _ask(self, module: PPOModule) -> None:
        examples = module.held_out[: self.number]
        prompts = [module.template.prompt(example.record.prompt) for example in examples]
        requests = [
            Request(prompt, module.role, (module.seed, HELD_OUT, row))
            for row, prompt in enumerate(prompts)
        ]
        responses = generated(module, requests)
        texts = [module.template.decode(response.tokens) for response in responses]
        records = [
            example.record.fields | {"finished": response.finished}
            for example, response in zip(examples, responses, strict=True)
        ]
        asked = [example.record.prompt for example in examples]
        verdict = ranks.from_first(lambda: judge(self.function, asked, texts, records))
        module.log("judge/score", mean_of(verdict.scores).value)
        if verdict.correct is not None:
            module.log("judge/accuracy", mean_of(verdict.correct).value)
