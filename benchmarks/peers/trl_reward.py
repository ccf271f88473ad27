"""TRL RewardTrainer (Bradley-Terry) + LoRA on the shared work, CPU. Prints one JSON line.

    python trl_reward.py WORK [--dtype fp32|bf16|bf16-amp] [--batch 8] [--steps 8] [--tuned]

--batch counts pairs, so a step runs 2*batch sequences. "samples" in the output counts pairs.
Default: TRL's own defaults (gradient checkpointing on, random batches). --tuned: checkpointing off, length-grouped.
"""

import peer_common as pc

ap = pc.parser(__doc__, batch=8, steps=8)
ap.add_argument("--group", action="store_true", help="only length-grouped batches")
ap.add_argument("--no-gc", action="store_true", help="only gradient checkpointing off")
a = ap.parse_args()
torch = pc.setup(a)

import tempfile  # noqa: E402

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402
from trl import RewardConfig, RewardTrainer  # noqa: E402

tokenizer = AutoTokenizer.from_pretrained(a.work / "reward_model")
pc.mark_memory()
model = AutoModelForSequenceClassification.from_pretrained(
    a.work / "reward_model", num_labels=1, dtype=pc.weights_dtype(a)
)
group, gc = a.group or a.tuned, not (a.no_gc or a.tuned)
data = Dataset.from_list(pc.rows(a, "preference.jsonl"))
if group:
    # RewardTrainer's dataset has no `input_ids`, so length grouping needs a ready-made length column, which
    # remove_unused_columns (on by default) would drop again before the sampler looks at it
    def measure(row):
        return {
            "length": max(
                len(tokenizer(row["prompt"] + row[k])["input_ids"]) for k in ("chosen", "rejected")
            )
        }

    data = data.map(measure)
with tempfile.TemporaryDirectory() as tmp:
    config = RewardConfig(
        **pc.trainer_args(a, tmp),
        per_device_train_batch_size=a.batch,
        max_steps=a.steps,
        max_length=512,
        gradient_checkpointing=gc,
        remove_unused_columns=not group,
        train_sampling_strategy="group_by_length" if group else "random",
    )
    meter = pc.Meter()

    class Timed(RewardTrainer):
        def _get_train_sampler(self, *args, **kw):
            lengths = [
                max(map(len, pair))
                for pair in zip(
                    self.train_dataset["chosen_ids"], self.train_dataset["rejected_ids"]
                )
            ]
            return pc.spread_batches(
                super()._get_train_sampler(*args, **kw), lengths, a.batch, a.steps
            )

        def training_step(self, model, inputs, *args, **kw):
            ids = inputs["input_ids"]
            meter.work(ids.size(0) // 2, inputs["attention_mask"].sum(), ids.numel())
            return super().training_step(model, inputs, *args, **kw)

    trainer = Timed(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=pc.lora(a, "SEQ_CLS", modules_to_save=["score"]),
        callbacks=[pc.step_callback(meter)],
    )
    pc.warm_up(a, trainer)
    result = trainer.train()
    meter.report(
        "reward",
        a,
        train_loss=round(result.training_loss, 4),
        gradient_checkpointing=gc,
        group_by_length=group,
    )
