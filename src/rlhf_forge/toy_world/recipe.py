"""Train the tiny base that the package ships: ``python -m rlhf_forge.toy_world.recipe OUT``.

Products are in bf16, so a CPU with bf16 units is wanted. Cut and started again with the same OUT,
it goes on from its last snapshot.
"""

import argparse
import copy
import json
import random
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rlhf_forge.toy_world import corpus, packing, quiz
from rlhf_forge.toy_world.quiz import Model
from rlhf_forge.toy_world.tokenizer import train_tokenizer

VOCAB_SIZE = 1536
ROWS, LENGTH = 32, 128
QUESTIONS = 50
"""Of each skill, in the quiz that the log holds."""
WARM_UP, DECAY = 0.01, 0.6
"""Shares of a phase in which the learning rate rises from 0 and falls linearly back to 0."""


@dataclass(frozen=True)
class Phase:
    """A part of the run with a learning rate of its own.

    Args:
        share: Of the run's steps.
        peak_lr: Highest learning rate.
        odds: Of the kinds of documents.
    """

    share: float
    peak_lr: float
    odds: tuple[int, ...]


PHASES = (Phase(0.8, 3e-3, corpus.LEARNING), Phase(0.2, 1.5e-3, corpus.SUMMING_UP))


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        out: Folder of the finished base.
        snapshots: Folder of snapshots.
        tokens: Length of the run, padding included.
        snapshot_tokens: Tokens between snapshots.
        seed: Of weights and documents.
    """

    out: Path
    snapshots: Path
    tokens: int
    snapshot_tokens: int
    seed: int

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.tokens // (ROWS * LENGTH)

    @property
    def steps_between(self) -> int:
        """Optimiser steps between snapshots."""
        return self.snapshot_tokens // (ROWS * LENGTH)


def train(run: Run) -> None:
    """Train the base, or go on from the last snapshot; write weights, tokenizer and log."""
    torch.manual_seed(run.seed)
    tokenizer = train_tokenizer(_tokenizer_texts(), vocab_size=VOCAB_SIZE)
    model: Model = MistralForCausalLM(_config(len(tokenizer)))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=PHASES[0].peak_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    step, log = _restore(run, model, optimiser)
    started, losses = time.perf_counter(), []
    while step < run.steps:
        phase, lr = _phase_and_lr(step, run.steps)
        # What a batch holds is a function of (seed, step), so a run can be cut and go on.
        stream = corpus.documents(random.Random(f"{run.seed}/{step}"), phase.odds)
        tokens, learnt = packing.batch(stream, tokenizer, rows=ROWS, length=LENGTH)
        losses.append(_update(model, optimiser, tokens, learnt, lr=lr))
        step += 1
        if step % run.steps_between == 0 or step == run.steps:
            seconds = time.perf_counter() - started
            log.append(_measure(model, tokenizer, step, losses, seconds))
            _snapshot(run, model, optimiser, step, log)
            export(model, tokenizer, log, run.snapshots / "latest")
            started, losses = time.perf_counter(), []
    export(model, tokenizer, log, run.out)


def export(model: Model, tokenizer: PreTrainedTokenizerFast, log: list[Any], out: Path) -> None:
    """Write a folder that transformers loads: bf16 weights, config, tokenizer; and the log."""
    out.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    lines = (json.dumps(entry) + "\n" for entry in log)
    (out / "train_log.jsonl").write_text("".join(lines))


def _config(vocab_size: int) -> MistralConfig:
    config = MistralConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        sliding_window=None,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=5,
        initializer_range=0.02,
    )
    config._attn_implementation = "eager"  # its backward is faster on CPUs than the fused one's
    return config


def _tokenizer_texts() -> list[str]:
    stream = corpus.documents(random.Random("tokenizer"), corpus.LEARNING)
    return [text.removesuffix(corpus.END) for text in islice(stream, 20000)]


def _phase_and_lr(step: int, steps: int) -> tuple[Phase, float]:
    """The phase that a step falls into, and its learning rate."""
    start = 0
    for phase in PHASES[:-1]:
        length = round(phase.share * steps)
        if step < start + length:
            return phase, _learning_rate(step - start, length, peak=phase.peak_lr)
        start += length
    last = PHASES[-1]
    return last, _learning_rate(step - start, steps - start, peak=last.peak_lr)


def _learning_rate(step: int, steps: int, *, peak: float) -> float:
    rise = (step + 1) / max(1.0, WARM_UP * steps)
    fall = (steps - step) / max(1.0, DECAY * steps)
    return peak * min(1.0, rise, fall)


def _update(
    model: Model,
    optimiser: torch.optim.Optimizer,
    tokens: Tensor,
    learnt: Tensor,
    *,
    lr: float,
) -> float:
    """One step; logits are computed only where something is learnt. Returns the loss in nats."""
    learnt = learnt[:, 1:]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden[learnt])
    loss = cross_entropy(logits.float(), tokens[:, 1:][learnt])
    torch.autograd.backward(loss)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return loss.item()


def _measure(
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    step: int,
    losses: list[float],
    seconds: float,
) -> dict[str, Any]:
    model.eval()
    entry = {
        "step": step,
        "tokens": step * ROWS * LENGTH,
        "loss": sum(losses[-100:]) / len(losses[-100:]),
        "tokens_per_second": len(losses) * ROWS * LENGTH / seconds,
        "answers": quiz.answer_shares(model, tokenizer, per_skill=QUESTIONS, seed=0),
    }
    model.train()
    return entry


def _snapshot(
    run: Run, model: Model, optimiser: torch.optim.Optimizer, step: int, log: list[Any]
) -> None:
    run.snapshots.mkdir(parents=True, exist_ok=True)
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
    unfinished = run.snapshots / "snapshot.unfinished"
    torch.save(state | {"step": step, "log": log}, unfinished)
    unfinished.replace(run.snapshots / "snapshot.pt")


def _restore(run: Run, model: Model, optimiser: torch.optim.Optimizer) -> tuple[int, list[Any]]:
    path = run.snapshots / "snapshot.pt"
    if not path.exists():
        return 0, []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"], state["log"]


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the finished base")
    parser.add_argument("--snapshots", type=Path, help="folder of snapshots [OUT/snapshots]")
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--snapshot_tokens", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    snapshots = args.snapshots or args.out / "snapshots"
    train(Run(args.out, snapshots, args.tokens, args.snapshot_tokens, args.seed))


if __name__ == "__main__":
    main()
