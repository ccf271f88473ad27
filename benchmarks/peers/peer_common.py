"""Shared by the TRL scripts: arguments, data, timing. Nothing here changes what TRL computes."""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path

for key, value in {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_DATASETS_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "OMP_NUM_THREADS": "2",
}.items():
    os.environ.setdefault(key, value)
# keep the datasets fingerprint cache out of the timings and out of $HOME
os.environ.setdefault("HF_DATASETS_CACHE", tempfile.mkdtemp(prefix="peer-ds-"))
warnings.filterwarnings("ignore")


def parser(doc, batch, steps):
    ap = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("work", type=Path, help="folder made by make_work.py")
    ap.add_argument(
        "--dtype",
        choices=["fp32", "bf16", "bf16-amp"],
        default="fp32",
        help="fp32: all fp32. bf16: bf16 base weights + bf16 autocast (LoRA fp32). bf16-amp: fp32 weights + autocast",
    )
    ap.add_argument(
        "--batch",
        type=int,
        default=batch,
        help="samples per optimizer step (pairs for reward, prompts for PPO)",
    )
    ap.add_argument(
        "--steps",
        type=int,
        default=steps,
        help="timed steps. SFT/reward: batches spread evenly over the widths of a whole epoch, after a "
        "separate warm-up forward+backward. PPO: one extra update runs first, untimed",
    )
    ap.add_argument(
        "--tuned",
        action="store_true",
        help="the best documented TRL settings found for this machine",
    )
    ap.add_argument("--lr", type=float, default=1e-4)
    ap.add_argument("--seed", type=int, default=0)
    return ap


def setup(a):
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    torch.manual_seed(a.seed)
    return torch


def mark_memory():
    """Call just before the model is loaded."""
    global rss_before_model
    rss_before_model = rss_mib(peak=False)


def meta(a):
    return json.loads((a.work / "meta.json").read_text())


def weights_dtype(a):
    import torch

    return torch.bfloat16 if a.dtype == "bf16" else torch.float32


def lora(a, task_type, **extra):
    from peft import LoraConfig

    return LoraConfig(task_type=task_type, **{**meta(a)["lora"], **extra})


def rows(a, name):
    return [json.loads(line) for line in (a.work / name).read_text().splitlines()]


def spread_batches(order, lengths, batch, steps):
    """`steps` batches of the epoch `order`, at evenly spaced quantiles of the batch width.

    Timing the first few batches would mislead: a length-grouped sampler starts with the longest rows.
    """
    order = list(order)
    batches = [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)]
    batches.sort(key=lambda rows: (max(lengths[r] for r in rows), sum(lengths[r] for r in rows)))
    picked = [batches[int((k + 0.5) * len(batches) / steps)] for k in range(steps)]
    return [row for rows in picked for row in rows]


def warm_up(a, trainer):
    """One forward + backward before the clock starts; leaves no gradient behind."""
    import torch

    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=a.dtype != "fp32"):
        loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    trainer.model.zero_grad(set_to_none=True)
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0


def trainer_args(a, out_dir):
    """TrainingArguments every stage shares: constant-lr AdamW, no logging/saving/eval cost, CPU."""
    return dict(
        output_dir=out_dir,
        use_cpu=True,
        bf16=a.dtype != "fp32",
        learning_rate=a.lr,
        seed=a.seed,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="no",
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
    )


def rss_mib(peak=True):
    if peak:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


class Meter:
    """Counts samples/tokens per step, and wall + CPU time.

    skip_first=False: from `step_end` called when training begins. True: from the end of step 1 (PPO).
    """

    def __init__(self, skip_first=False):
        self.skip_first = skip_first
        self.marks, self.cpu, self.samples, self.real, self.padded = [], [], [], [], []
        self.rss_start = rss_mib(peak=False)

    def work(self, samples, real, padded):
        (
            self.samples.append(int(samples)),
            self.real.append(int(real)),
            self.padded.append(int(padded)),
        )

    def step_end(self):
        self.marks.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def report(self, stage, a, **extra):
        import torch
        import transformers
        import trl

        seconds = self.marks[-1] - self.marks[0]
        samples, real, padded = (
            sum(x[int(self.skip_first) :]) for x in (self.samples, self.real, self.padded)
        )
        line = {
            "stage": stage,
            "library": "trl",
            "version": trl.__version__,
            "seconds_steady": round(seconds, 3),
            "samples": samples,
            "real_tokens": real,
            "tokens_per_s": round(real / seconds, 1),
            "samples_per_s": round(samples / seconds, 3),
            "peak_rss_mib": rss_mib(),
            "rss_before_model_mib": rss_before_model,
            "cpu_seconds_steady": round(self.cpu[-1] - self.cpu[0], 3),
            "size": meta(a)["size"],
            "dtype": a.dtype,
            "tuned": a.tuned,
            "steps": len(self.marks) - 1,
            "batch": a.batch,
            "padding_waste": round(1 - real / padded, 3) if padded else None,
            "rss_before_train_mib": self.rss_start,
            "threads": torch.get_num_threads(),
            "load_1min": round(os.getloadavg()[0], 2),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **extra,
        }
        sys.stdout.flush()
        print(json.dumps(line), flush=True)


def step_callback(meter):
    from transformers import TrainerCallback

    class Steps(TrainerCallback):
        def on_train_begin(self, args, state, control, **kw):
            if not meter.skip_first:
                meter.step_end()

        def on_step_end(self, args, state, control, **kw):
            meter.step_end()

    return Steps()
