"""The engine against Hugging Face's generate, in useful tokens per second, on one CPU thread.

    python benchmarks/generation.py
    python benchmarks/generation.py --sizes 5M --rounds 1      # a try

256 prompts through 64 slots, a response's length drawn beforehand (log-normal, 10 to 256 tokens),
against `generate` in batches of 64; and 64 prompts at once, lengths uniform from 1 to 64, where no
slot is filled twice. Both sides have the same float32 weights without adapters, the same prompts
and lengths, and sample at temperature 1. A token counts up to its response's length: what a batch
generates behind it, waiting for its longest row, is not useful. The sides run in turn in one
process (A B A B); the ratio of a round is that of two neighbours in time. Seconds are those of the
thread on the processor: on a busy machine the clock measures the neighbours. Ratios by the clock
are printed beside.
"""

import argparse
import json
import os
import platform
import random
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria
from work import PROMPT, RESPONSE, SIZES, write_work

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.generation.decode import generate
from rlhf_forge.generation.engine import Request
from rlhf_forge.generation.sampler import Sampling

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2, help="pairs of runs")
    parser.add_argument("--slots", type=int, default=64, help="rows at once, and of a batch")
    parser.add_argument("--prompts", type=int, default=256, help="that go through the slots")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in arguments.sizes:
        with TemporaryDirectory() as folder:
            write_work(SIZES[size], Path(folder))
            rows += measured(size, Path(folder) / "base", arguments)
    found = {"machine": machine(), "rows": rows}
    out = arguments.out or RESULTS / f"generation-{time.strftime('%Y-%m-%d')}.json"
    out.write_text(json.dumps(found, indent=1) + "\n")


def measured(size: str, base: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Both kinds of work at one size."""
    rng = random.Random(0)
    vocabulary = len(AutoTokenizer.from_pretrained(base))
    slots = arguments.slots
    prompts = [
        [rng.randrange(8, vocabulary) for _ in range(PROMPT.draw(rng))]
        for _ in range(arguments.prompts)
    ]
    works = {
        "refill": [RESPONSE.draw(rng) for _ in prompts],
        "no refill": [rng.randint(1, 64) for _ in range(slots)],
    }
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ours = Backbone(load_base(BackboneConfig(str(base), "fp32"), torch.device("cpu")), None)
    ours.add_bare_role("base")
    found = []
    for kind, lengths in works.items():
        asked = prompts[: len(lengths)]
        by_engine(ours, asked[:8], [4] * 8, slots)  # the first call allocates
        by_stock(theirs, asked[:8], [4] * 8, slots)
        pairs = [
            tuple(
                timed(side, model, asked, lengths, slots)
                for side, model in ((by_stock, theirs), (by_engine, ours))
            )
            for _ in range(arguments.rounds)
        ]
        useful = sum(lengths)
        row = {
            "size": size,
            "work": kind,
            "slots": slots,
            "prompts": len(asked),
            "useful_tokens": useful,
            "generate": [round(useful / a.cpu) for a, _ in pairs],
            "engine": [round(useful / b.cpu) for _, b in pairs],
            "ratios": [round(a.cpu / b.cpu, 2) for a, b in pairs],
            "ratios_by_clock": [round(a.clock / b.clock, 2) for a, b in pairs],
            "ratio": round(median(a.cpu / b.cpu for a, b in pairs), 2),
        }
        print(json.dumps(row), flush=True)
        found.append(row)
    return found


class Seconds(NamedTuple):
    """How long something took."""

    cpu: float
    clock: float


def timed(function: Any, *arguments: Any) -> Seconds:
    """How long a call takes."""
    cpu, clock = time.process_time(), time.perf_counter()
    function(*arguments)
    return Seconds(time.process_time() - cpu, time.perf_counter() - clock)


def by_engine(backbone: Backbone, prompts: list[list[int]], lengths: list[int], slots: int) -> None:
    """Ours; every response has the length that was drawn for it."""
    requests = [Request(prompt, "base", (0, 0, row)) for row, prompt in enumerate(prompts)]
    each = [Sampling(max_new_tokens=length) for length in lengths]
    responses = generate(backbone, requests, each, [], max_rows=slots)
    assert [len(response.tokens) for response in responses] == lengths


class LengthOfEach(StoppingCriteria):  # type: ignore[misc]  # transformers is untyped here
    """Ends each row at its own length: a batch ends with its last row."""

    def __init__(self, width: int, lengths: list[int]) -> None:
        self.ends = width + torch.tensor(lengths)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Which rows are done."""
        return input_ids.shape[1] >= self.ends


def by_stock(model: Any, prompts: list[list[int]], lengths: list[int], slots: int) -> None:
    """Batches, left-padded, each as long as its longest row."""
    for start in range(0, len(prompts), slots):
        batch, wanted = prompts[start : start + slots], lengths[start : start + slots]
        width = max(map(len, batch))
        tokens = torch.tensor([[0] * (width - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch])
        model.generate(
            input_ids=tokens,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=max(wanted),
            stopping_criteria=[LengthOfEach(width, wanted)],
            eos_token_id=None,
            pad_token_id=0,
        )


def machine() -> dict[str, Any]:
    """Where and when, and how busy the machine was before."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


if __name__ == "__main__":
    main()
