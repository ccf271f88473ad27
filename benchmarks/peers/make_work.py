"""Build the shared benchmark work (model, tokenizer, reward model, JSONL data) from a seed, offline.

    python make_work.py OUT_DIR --size small|medium [--seed 0] [--rows 2048] [--dtype float32|bfloat16]

Everything is synthetic and deterministic: the same seed, arguments and library versions give the same files.
OUT_DIR gets:
    model/          random-init MistralForCausalLM + byte-level BPE tokenizer (chat template, <s> </s> <pad>)
    reward_model/   MistralForSequenceClassification: the same backbone + a seeded scalar head, same tokenizer
    sft.jsonl          {"prompt", "completion"}
    preference.jsonl   {"prompt", "chosen", "rejected"}
    prompts.jsonl      {"prompt"}
    meta.json          sizes, length statistics, the LoRA/optimizer settings both sides must use
Rows are plain text. A trainer should see  <s> + prompt + completion + </s>  (the tokenizer adds <s>, not </s>).
"""

import argparse
import hashlib
import json
import random
from pathlib import Path

SIZES = {
    # ~5.0M: 2.1M in embeddings + head.  ~31M: 8.4M in embeddings + head.
    "small": dict(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
    ),
    "medium": dict(
        vocab_size=8192,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
    ),
}
PROMPT_LEN = dict(median=28, sigma=0.7, lo=8, hi=128)  # tokens, without <s>
RESPONSE_LEN = dict(median=70, sigma=0.8, lo=10, hi=256)  # tokens, without </s>
LORA = dict(
    r=16,
    lora_alpha=32,
    lora_dropout=0.0,
    bias="none",
    target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + m['content'] + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)


class Language:
    """A made-up language: Zipf-weighted words, each with a few preferred followers, so a model can learn it."""

    def __init__(self, rng, n_words):
        onsets = "b c d f g h j k l m n p r s t v w z br cr dr gr kl pl st tr sh th".split()
        vowels = "a e i o u ai ea ou".split()
        codas = ["", "", "n", "r", "s", "l", "t", "m"]
        words, seen = [], set()
        while len(words) < n_words:
            w = "".join(
                rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas)
                for _ in range(rng.randint(1, 4))
            )
            if w not in seen:
                seen.add(w)
                words.append(w)
        self.words = words
        self.cum, total = [], 0.0
        for i in range(n_words):
            total += 1.0 / (i + 10) ** 0.9
            self.cum.append(total)
        self.follow = [[rng.randrange(n_words) for _ in range(4)] for _ in range(n_words)]
        self.good, self.bad = list(range(40, 72)), list(range(72, 104))

    def draw(self, rng, previous=None):
        if previous is not None and rng.random() < 0.6:
            return rng.choice(self.follow[previous])
        return rng.choices(range(len(self.words)), cum_weights=self.cum)[0]


def length(rng, median, sigma, lo, hi):
    return max(lo, min(hi, round(median * rng.lognormvariate(0.0, sigma))))


def main():
    ap = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ap.add_argument("out")
    ap.add_argument("--size", choices=SIZES, default="small")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--rows", type=int, default=2048)
    ap.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="dtype the weights are saved in",
    )
    a = ap.parse_args()

    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import (
        MistralConfig,
        MistralForCausalLM,
        MistralForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    shape = SIZES[a.size]
    rng = random.Random(a.seed)
    lang = Language(rng, n_words=3 * shape["vocab_size"])

    # tokenizer -------------------------------------------------------------------------------------------------
    def corpus():
        prev = None
        for _ in range(6000):
            line = []
            for _ in range(40):
                prev = lang.draw(rng, prev)
                line.append(lang.words[prev])
            yield " " + " ".join(line)

    tk = Tokenizer(models.BPE())
    tk.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tk.decoder = decoders.ByteLevel()
    tk.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=shape["vocab_size"],
            special_tokens=["<pad>", "<s>", "</s>", "[INST]", "[/INST]"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tk.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tk.token_to_id("<s>"))]
    )
    assert tk.get_vocab_size() == shape["vocab_size"], tk.get_vocab_size()
    tok = PreTrainedTokenizerFast(
        tokenizer_object=tk,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=1024,
        padding_side="right",
    )
    tok.chat_template = CHAT_TEMPLATE

    # data ------------------------------------------------------------------------------------------------------
    cost = [
        len(e.ids) for e in tk.encode_batch([" " + w for w in lang.words], add_special_tokens=False)
    ]
    single = [i for i, c in enumerate(cost) if c == 1]

    def text(n_tokens, lean=None, prev=None):
        """Words adding up to exactly n_tokens tokens; `lean` mixes in words of that list."""
        ids, left = [], n_tokens
        while left:
            prev = rng.choice(lean) if lean and rng.random() < 0.25 else lang.draw(rng, prev)
            if cost[prev] > left:
                prev = rng.choice(single)
            ids.append(prev)
            left -= cost[prev]
        return " " + " ".join(lang.words[i] for i in ids), prev

    def prompt():
        return text(length(rng, **PROMPT_LEN))

    def write(name, rows):
        body = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        (out / name).write_text(body)
        digest[name] = hashlib.sha256(body.encode()).hexdigest()[:16]
        return rows

    digest = {}
    rows = []
    for _ in range(a.rows):
        p, last = prompt()
        rows.append({"prompt": p, "completion": text(length(rng, **RESPONSE_LEN), prev=last)[0]})
    sft = write("sft.jsonl", rows)
    rows = []
    for _ in range(a.rows):
        p, last = prompt()
        rows.append(
            {
                "prompt": p,
                "chosen": text(length(rng, **RESPONSE_LEN), lang.good, last)[0],
                "rejected": text(length(rng, **RESPONSE_LEN), lang.bad, last)[0],
            }
        )
    pref = write("preference.jsonl", rows)
    prompts = write("prompts.jsonl", [{"prompt": prompt()[0]} for _ in range(a.rows)])

    # models ----------------------------------------------------------------------------------------------------
    cfg = MistralConfig(
        **shape,
        max_position_embeddings=1024,
        sliding_window=None,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
        use_cache=True,
    )
    torch.manual_seed(a.seed)
    dtype = getattr(torch, a.dtype)
    lm = MistralForCausalLM(cfg)
    n_params = sum(p.numel() for p in lm.parameters())
    rm = MistralForSequenceClassification(MistralConfig(**{**cfg.to_dict(), "num_labels": 1}))
    rm.model.load_state_dict(lm.model.state_dict())
    for model, name in ((lm, "model"), (rm, "reward_model")):
        model.to(dtype).save_pretrained(out / name)
        tok.save_pretrained(out / name)

    def stats(texts):
        n = sorted(len(e.ids) for e in tk.encode_batch(texts, add_special_tokens=False))
        return {
            "mean": round(sum(n) / len(n), 1),
            "p10": n[len(n) // 10],
            "p50": n[len(n) // 2],
            "p90": n[len(n) * 9 // 10],
            "max": n[-1],
            "total": sum(n),
        }

    meta = {
        "size": a.size,
        "seed": a.seed,
        "rows": a.rows,
        "dtype": a.dtype,
        "parameters": n_params,
        "shape": shape,
        "lora": LORA,
        "transformers": transformers.__version__,
        "sha256_16": digest,
        "tokens_without_specials": {
            "sft.prompt": stats([r["prompt"] for r in sft]),
            "sft.completion": stats([r["completion"] for r in sft]),
            "preference.chosen": stats([r["chosen"] for r in pref]),
            "preference.rejected": stats([r["rejected"] for r in pref]),
            "prompts.prompt": stats([r["prompt"] for r in prompts]),
        },
    }
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(
        json.dumps(
            {k: meta[k] for k in ("size", "parameters", "sha256_16", "tokens_without_specials")}
        )
    )


if __name__ == "__main__":
    main()
