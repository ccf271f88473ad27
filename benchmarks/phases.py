"""Where a training step's processor time goes, by phase, at one thread.

    python benchmarks/phases.py --sizes 5M 31M --precision fp32 bf16

The work of throughput.py under torch.profiler: every operation's own time is put down to a phase by
its name and the shapes it was given. Prints a Markdown table of each phase's share; a share holds
on a busy machine too, where seconds do not. The profiler itself costs some 5 % of the CPU time.
"""

import argparse
import logging
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from throughput import Clock, fit, modules_of
from torch.profiler import ProfilerActivity, profile
from typing_extensions import override
from work import SIZES, Size, write_work

PHASES = (
    "base products",
    "LoRA products",
    "head products",
    "attention",
    "log-probs",
    "element-wise",
    "optimiser",
)
PRODUCTS = (
    "aten::mm",
    "aten::addmm",
    "aten::addmm_",
    "aten::mkldnn_linear",
    "mkldnn::_linear_pointwise",
)
BATCHED = ("aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_softmax_backward_data")
OVER_VOCABULARY = ("softmax", "exp", "amax", "sum", "gather", "scatter", "sub", "mul", "div")


class Profiled(Clock):
    """A clock with torch's profiler on behind the warm-up."""

    def __init__(self, warm_up: int) -> None:
        super().__init__(warm_up)
        self.profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)

    @override
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *args)
        if self.steps == 0:  # of those that are timed
            self.profiler.start()
            self._started = (time.perf_counter(), time.process_time())

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.profiler.stop()


def phase_of(name: str, shapes: Any, size: Size) -> str:
    """The phase that an operation belongs to."""
    dims = {n for shape in shapes if isinstance(shape, list) for n in shape}
    if "Optimizer" in name or "adam" in name or "foreach" in name or name == "aten::lerp_":
        return "optimiser"
    if size.vocab in dims and (name in PRODUCTS or any(op in name for op in OVER_VOCABULARY)):
        return "head products" if name in PRODUCTS else "log-probs"
    if name in PRODUCTS:
        return "LoRA products" if dims & {16, 32, 48} else "base products"
    if name in BATCHED or "_softmax" in name:
        return "attention"
    return "element-wise"


def table_of(clock: Profiled, size: Size) -> Counter[str]:
    """Milliseconds a step inside operations, by phase."""
    spent: Counter[str] = Counter()
    for event in clock.profiler.key_averages(group_by_input_shape=True):
        phase = phase_of(event.key, event.input_shapes, size)
        spent[phase] += event.self_cpu_time_total / 1000 / clock.steps
    return spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--ppo-epochs", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--operations", type=int, default=0, help="show this many, too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    print(
        "| size | precision | stage | "
        + " | ".join(PHASES)
        + " | CPU ms a step | real tokens/CPU s |"
    )
    print("|---" * (len(PHASES) + 5) + "|")
    for name in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_work(SIZES[name], Path(folder))
            for precision in arguments.precision:
                show(name, precision, folder, arguments)


def show(name: str, precision: str, folder: str, arguments: argparse.Namespace) -> None:
    """A row for each stage."""
    for module, batch_size, length in modules_of(SIZES[name], folder, precision, arguments):
        clock = Profiled(arguments.warm_up)
        fit(module, folder, clock, batch_size=batch_size, length=length)
        spent = table_of(clock, SIZES[name])
        inside = sum(spent.values())
        cells = " | ".join(f"{spent[phase] / inside:.0%}" for phase in PHASES)
        total = f"{1000 * clock.cpu / clock.steps:.0f} | {clock.real / clock.cpu:.0f}"
        print(f"| {name} | {precision} | {module.stage} | {cells} | {total} |", flush=True)
        if arguments.operations:
            averages = clock.profiler.key_averages(group_by_input_shape=True)
            print(
                averages.table(
                    sort_by="self_cpu_time_total",
                    row_limit=arguments.operations,
                    max_shapes_column_width=70,
                )
            )


if __name__ == "__main__":
    main()
