"""TRL SFTTrainer + LoRA on the shared work, CPU. Prints one JSON line.

    python trl_sft.py WORK [--dtype fp32|bf16|bf16-amp] [--batch 16] [--steps 8] [--tuned]

Default: TRL's own defaults (gradient checkpointing on, random batches padded to the longest row).
--tuned: gradient checkpointing off, length-grouped batches (documented options that work on CPU).
--packing: TRL's `bfd` packing instead (implies padding-free, one flattened row per step); add --no-gc or --tuned.
"""

import peer_common as pc

ap = pc.parser(__doc__, batch=16, steps=8)
ap.add_argument(
    "--packing", action="store_true", help="packing='bfd', max_length 512, batch/4 rows per step"
)
ap.add_argument("--pack-length", type=int, default=512)
ap.add_argument("--group", action="store_true", help="only length-grouped batches")
ap.add_argument("--no-gc", action="store_true", help="only gradient checkpointing off")
ap.add_argument(
    "--full-loss",
    action="store_true",
    help="loss on prompt + completion (default: completion only)",
)
a = ap.parse_args()
torch = pc.setup(a)

import tempfile  # noqa: E402

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

tokenizer = AutoTokenizer.from_pretrained(a.work / "model")
pc.mark_memory()
model = AutoModelForCausalLM.from_pretrained(a.work / "model", dtype=pc.weights_dtype(a))
group, gc = a.group or (a.tuned and not a.packing), not (a.no_gc or a.tuned)
batch = max(1, a.batch // 4) if a.packing else a.batch
with tempfile.TemporaryDirectory() as tmp:
    config = SFTConfig(
        **pc.trainer_args(a, tmp),
        per_device_train_batch_size=batch,
        max_steps=a.steps,
        max_length=a.pack_length if a.packing else 512,
        packing=a.packing,
        gradient_checkpointing=gc,
        completion_only_loss=not a.full_loss,
        train_sampling_strategy="group_by_length" if group else "random",
    )
    meter = pc.Meter()

    class Timed(SFTTrainer):
        def _get_train_sampler(self, *args, **kw):
            lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
            return pc.spread_batches(
                super()._get_train_sampler(*args, **kw), lengths, batch, a.steps
            )

        def training_step(self, model, inputs, *args, **kw):
            ids = inputs["input_ids"]
            if "attention_mask" in inputs:
                real, n = inputs["attention_mask"].sum(), ids.size(0)
            else:  # padding-free: one flattened row, every sequence starts at position 0
                real, n = ids.numel(), (inputs["position_ids"] == 0).sum()
            meter.work(n, real, ids.numel())
            return super().training_step(model, inputs, *args, **kw)

    trainer = Timed(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(pc.rows(a, "sft.jsonl")),
        processing_class=tokenizer,
        peft_config=pc.lora(a, "CAUSAL_LM"),
        callbacks=[pc.step_callback(meter)],
    )
    pc.warm_up(a, trainer)
    result = trainer.train()
    meter.report(
        "sft",
        a,
        train_loss=round(result.training_loss, 4),
        gradient_checkpointing=gc,
        packing=a.packing,
        group_by_length=group,
    )
