"""TRL PPOTrainer + LoRA on the shared work, CPU. Prints one JSON line with a time split.

    PYTHONPATH=$LAB/trl-ppo-1.12.0 python trl_ppo.py WORK [--dtype ...] [--batch 16] [--steps 3] [--tuned]

TRL removed PPO in 1.13.0 (huggingface/trl PR 7020); the last release with it is 1.12.0, so this script needs that one:
    pip install --no-deps --target $LAB/trl-ppo-1.12.0 trl==1.12.0

Models as in TRL's own examples/scripts/ppo/ppo.py with PEFT: LoRA policy (reference = the policy with its adapter
off), a separate full reward model, a separate value model that is trained in full. A step is one PPO update:
generate --response tokens for --batch prompts, score, then --epochs passes with one optimizer step per mini batch.
--value lora wraps the value model with LoRA too (fewer trained weights). --tuned: --value lora and one big micro batch.
"""

import peer_common as pc

ap = pc.parser(__doc__, batch=16, steps=3)
ap.add_argument(
    "--response", type=int, default=64, help="response length; generation never stops early"
)
ap.add_argument("--epochs", type=int, default=4)
ap.add_argument("--mini-batches", type=int, default=1, help="optimizer steps per epoch")
ap.add_argument(
    "--micro-batch",
    type=int,
    default=0,
    help="sequences per forward/backward (default: half the mini batch)",
)
ap.add_argument("--value", choices=["full", "lora"], default=None)
ap.add_argument(
    "--real-amp",
    action="store_true",
    help="set ACCELERATE_MIXED_PRECISION=bf16, without which PPOTrainer ignores bf16=True",
)
a = ap.parse_args()
if a.real_amp:
    import os

    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
torch = pc.setup(a)

import tempfile  # noqa: E402
import time  # noqa: E402

from datasets import Dataset  # noqa: E402
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer  # noqa: E402

try:
    from trl.experimental.ppo import PPOConfig, PPOTrainer
    from trl.experimental.ppo import ppo_trainer as ppo_module
except ImportError as error:
    import trl

    raise SystemExit(
        f"trl {trl.__version__} has no PPO (removed in 1.13.0); see the docstring of this script"
    ) from error

mini = a.batch // a.mini_batches
micro = a.micro_batch or (mini if a.tuned else max(1, mini // 2))
accumulate = a.batch // micro
value_kind = a.value or ("lora" if a.tuned else "full")
dtype = pc.weights_dtype(a)

tokenizer = AutoTokenizer.from_pretrained(a.work / "model", padding_side="left")
pc.mark_memory()
policy = AutoModelForCausalLM.from_pretrained(a.work / "model", dtype=dtype)
reward, value = (
    AutoModelForSequenceClassification.from_pretrained(
        a.work / "reward_model", num_labels=1, dtype=dtype
    )
    for _ in range(2)
)
if value_kind == "lora":
    from peft import get_peft_model

    value = get_peft_model(value, pc.lora(a, "SEQ_CLS", modules_to_save=["score"]))

ids = [tokenizer(row["prompt"])["input_ids"] for row in pc.rows(a, "prompts.jsonl")]
split = {
    "generation": 0.0,
    "score_value_reward": 0.0,
    "reference_logprobs": 0.0,
    "update_forward": 0.0,
    "update_backward": 0.0,
    "optimizer": 0.0,
}
meter = pc.Meter(skip_first=True)
ends = []


def timed(key, fn, choose=None):
    def wrapper(*args, **kw):
        start = time.perf_counter()
        out = fn(*args, **kw)
        split[choose() if choose else key] += time.perf_counter() - start
        return out

    return wrapper


def generation(model, queries, rollout_batch, pad_token_id, generation_config):
    start = time.perf_counter()
    out = original_generation(model, queries, rollout_batch, pad_token_id, generation_config)
    split["generation"] += time.perf_counter() - start
    response = out[0][:, queries.size(1) :]
    # nothing may end early: each response has full length (a sampled <pad> is a real token to the model, not padding)
    assert response.size(1) == a.response, response.shape
    ends.append(int((response == pad_token_id).sum()))
    meter.work(queries.size(0), (queries != pad_token_id).sum() + response.numel(), out[0].numel())
    return out


original_generation = ppo_module.batch_generation
ppo_module.batch_generation = generation
ppo_module.get_reward = timed("score_value_reward", ppo_module.get_reward)
ppo_module.forward = timed(
    None,
    ppo_module.forward,
    lambda: "update_forward" if torch.is_grad_enabled() else "reference_logprobs",
)

with tempfile.TemporaryDirectory() as tmp:
    config = PPOConfig(
        **pc.trainer_args(a, tmp),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulate,
        num_mini_batches=a.mini_batches,
        total_episodes=a.batch * (a.steps + 1),
        num_ppo_epochs=a.epochs,
        response_length=a.response,
        local_rollout_forward_batch_size=a.batch,
        temperature=0.7,
        kl_coef=0.05,
        num_sample_generations=0,
        stop_token=None,
    )
    callback = pc.step_callback(meter)
    first_split = {}

    class Steps(type(callback)):
        def on_step_end(self, args, state, control, **kw):
            super().on_step_end(args, state, control, **kw)
            if len(meter.marks) == 1:
                first_split.update(split)

    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        peft_config=pc.lora(a, "CAUSAL_LM"),
        callbacks=[Steps()],
    )
    trainer.accelerator.backward = timed("update_backward", trainer.accelerator.backward)
    trainer.optimizer.step = timed("optimizer", trainer.optimizer.step)
    trainer.log = lambda metrics, *args, **kw: history.append(metrics)
    history = []
    trainer.train()

seconds = {k: round(v - first_split[k], 3) for k, v in split.items()}
total = meter.marks[-1] - meter.marks[0]
seconds["other"] = round(total - sum(seconds.values()), 3)
trained = sum(
    p.numel() for g in trainer.optimizer.param_groups for p in g["params"] if p.requires_grad
)
weights = {
    id(p): p.numel() * p.element_size() for m in (trainer.model, reward) for p in m.parameters()
}
meter.report(
    "ppo",
    a,
    response_length=a.response,
    ppo_epochs=a.epochs,
    micro_batch=micro,
    value_model=value_kind,
    split_s=seconds,
    generation_share=round(seconds["generation"] / total, 3),
    generated_tokens_per_s=round(a.batch * a.response * a.steps / seconds["generation"], 1),
    trained_parameters=trained,
    weights_mib=round(sum(weights.values()) / 2**20, 1),
    mixed_precision_in_effect=str(trainer.accelerator.mixed_precision),
    checkpointing_requested=bool(config.gradient_checkpointing),
    checkpointing_in_effect=bool(getattr(policy, "is_gradient_checkpointing", False)),
    pad_tokens_sampled=sum(ends),
    scores=[round(float(h["objective/scores"]), 4) for h in history],
)
