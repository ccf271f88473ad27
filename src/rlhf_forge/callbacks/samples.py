"""Responses to the same few prompts all along a run, as text to read."""

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

from rlhf_forge.callbacks.checkpoints import batches_done
from rlhf_forge.modules.ppo import PPOModule
from rlhf_forge.modules.responses import generated_held_out
from rlhf_forge.run_folder import SAMPLES


class SampleWriter(Callback):
    """Writes the answers of reference (SFT, or the bare base) and policy side by side, in PPO.

    They go to ``samples.jsonl`` and to TensorBoard as ``samples/responses``.

    Args:
        number: Prompts, the first of the held-out ones.
        every: Iterations between samples.
    """

    def __init__(self, number: int = 8, every: int = 10) -> None:
        self.number, self.every = number, every

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what a killed run wrote behind its checkpoint: it is written again."""
        path = _file(trainer)
        if not trainer.is_global_zero or not path.is_file():
            return
        done = batches_done(trainer)
        with path.open(encoding="utf-8") as file:
            lines = list(file)
        # A line that the kill cut is behind the checkpoint too.
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["iteration"] <= done]
        if kept != lines:
            beside = path.with_name(f"{path.name}.tmp")
            beside.write_text("".join(kept), encoding="utf-8")
            beside.replace(path)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        done = batches_done(trainer)
        if isinstance(pl_module, PPOModule) and done % self.every == 0:
            self._write(trainer, pl_module, done)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = batches_done(trainer)
        if isinstance(pl_module, PPOModule) and done % self.every != 0:
            self._write(trainer, pl_module, done)

    def _write(self, trainer: Trainer, module: PPOModule, iteration: int) -> None:
        records = [example.record for example in module.held_out[: self.number]]
        answers = {role: _answers(module, records, role) for role in ("reference", "policy")}
        if not trainer.is_global_zero:
            return
        rows = [
            {
                "iteration": iteration,
                "prompt": record.prompt[-1]["content"],
                module.reference: answers["reference"][row],
                "ppo": answers["policy"][row],
            }
            for row, record in enumerate(records)
        ]
        with _file(trainer).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples/responses", _table(rows), iteration)


def _file(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / SAMPLES


def _answers(module: PPOModule, records: list[Any], role: str) -> list[str]:
    prompts = [module.template.prompt(record.prompt) for record in records]
    responses = generated_held_out(module, role, prompts)
    return [module.template.decode(response.tokens) for response in responses]


def _table(rows: list[dict[str, Any]]) -> str:
    columns = [key for key in rows[0] if key != "iteration"] if rows else []
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = (str(row[key]).replace("|", "\\|").replace("\n", " ") for key in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
