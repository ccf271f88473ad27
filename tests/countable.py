"""A policy so small that all its responses can be counted, and so PPO's best policy is known.

A response is a few tokens of a small vocabulary; token 0 ends it. Where a nat of KL from the
reference costs ``beta``, the policy that maximises score - beta KL is

    best(response | prompt) = reference(response | prompt) exp(score / beta) / Z(prompt)
"""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM

from rlhf_forge.backbone.backbone import Backbone
from rlhf_forge.backbone.config import BackboneConfig, LoraSpec
from rlhf_forge.backbone.loading import load_base
from rlhf_forge.backbone.scalar_head import HeadWeights
from rlhf_forge.generation.decode import Response
from rlhf_forge.generation.rows import join
from tests.tiny import CPU

EOS = 0
WIDTH = 32
LORA = LoraSpec(r=16, alpha=16)
# Both end with 0, so what a prompt and the first tokens of a response make together occurs once.
# And no prompt is made of a token that a response may repeat: attention takes an average, to which
# [1], [1, 1] and [1, 1, 1] are the same.
PROMPTS = ([0], [2, 1, 0])


class Size(NamedTuple):
    """How many responses there are.

    Attributes:
        vocab: Tokens of the model, all of them usable.
        longest: Tokens of the longest response.
    """

    vocab: int
    longest: int


@cache
def all_responses(size: Size) -> list[tuple[int, ...]]:
    """Those that end by themselves, shortest first, and then those that are cut."""
    words = range(1, size.vocab)
    bodies = [list(product(words, repeat=length)) for length in range(size.longest + 1)]
    ended = [(*body, EOS) for length in bodies[:-1] for body in length]
    return ended + bodies[-1]


def is_cut(size: Size) -> Tensor:
    """True on the responses that the length limit cuts."""
    return torch.tensor([response[-1] != EOS for response in all_responses(size)])


@cache
def _base(vocab: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="countable_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    config = MistralConfig(
        vocab_size=vocab,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16,
        sliding_window=None,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MistralForCausalLM(config)
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                # Activations and logits of size 1: no favourites, and adapters can go far.
                std = 1.0 if "embed" in name else parameter.shape[1] ** -0.5
                torch.nn.init.normal_(parameter, std=std)
        model.save_pretrained(folder)
    return folder


def open_countable(size: Size) -> Backbone:
    """A backbone with the roles of PPO; the critic starts at 0."""
    config = BackboneConfig(str(_base(size.vocab)), "fp32", LORA)
    backbone = Backbone(load_base(config, CPU), LORA)
    generator = torch.Generator().manual_seed(1)
    fresh = backbone.fresh_weights(seed=0)
    sft = {
        name: (down, 0.05 * torch.randn(up.shape, generator=generator))
        for name, (down, up) in fresh.pairs.items()
    }
    scorer = replace(fresh, head=HeadWeights(torch.zeros(1, WIDTH)))
    backbone.add_role("reference", replace(fresh, pairs=sft), trainable=False)
    backbone.add_role("policy", replace(fresh, pairs=sft), trainable=True)
    backbone.add_role("reward", scorer, trainable=False)
    backbone.add_role("value", scorer, trainable=True)
    return backbone


@torch.no_grad()
def response_log_probs(backbone: Backbone, role: str, size: Size, *, temperature: float) -> Tensor:
    """Log-probability of every response to every prompt, [prompts, responses], float64."""
    found = []
    for prompt in PROMPTS:
        responses = [Response(list(tokens), finished=True) for tokens in all_responses(size)]
        tokens, mask = join([prompt] * len(responses), responses, CPU)
        with backbone.using(role):
            log_probs, _ = backbone.log_probs(tokens, mask, temperature=temperature)
        found.append(log_probs.double().sum(-1))
    return torch.stack(found)


@dataclass(frozen=True)
class Standing:
    """Where a policy stands, exactly, as a mean over the prompts.

    Attributes:
        kl: From the reference, in nats per response.
        score: That its responses get.
    """

    kl: float
    score: float

    @classmethod
    def of(cls, log_probs: Tensor, reference: Tensor, scores: Tensor) -> "Standing":
        """Of the policy with these log-probabilities; all [prompts, responses]."""
        probs = log_probs.exp()
        kl = (probs * (log_probs - reference)).sum(-1).mean()
        return cls(float(kl), float((probs * scores).sum(-1).mean()))


def best(reference: Tensor, scores: Tensor, *, beta: float) -> Tensor:
    """Log-probabilities of the best policy."""
    return (reference + scores / beta).log_softmax(-1)


def best_token_by_token(reference: Tensor, scores: Tensor, size: Size, *, beta: float) -> Tensor:
    """Those of the policy whose every token is best as if no later one cost anything.

    There a prefix is worth the score to be expected behind it:

        policy(token | prefix) ~ reference(token | prefix) exp(worth(prefix + token) / beta)
    """
    rows = zip(reference, scores, strict=True)
    return torch.stack([_token_by_token(*row, size, beta) for row in rows])


def _token_by_token(reference: Tensor, scores: Tensor, size: Size, beta: float) -> Tensor:
    responses = all_responses(size)
    found = torch.zeros_like(reference)

    def members(prefix: tuple[int, ...]) -> list[int]:
        return [n for n, r in enumerate(responses) if r[: len(prefix)] == prefix]

    def worth(prefix: tuple[int, ...]) -> Tensor:
        if prefix in responses:
            return scores[responses.index(prefix)]
        longer = [(*prefix, token) for token in range(size.vocab)]
        mass = torch.stack([reference[members(p)].logsumexp(0) for p in longer])
        worths = torch.stack([worth(p) for p in longer])
        log_probs = (mass + worths / beta).log_softmax(0)
        for p, log_prob in zip(longer, log_probs, strict=True):
            found[members(p)] += log_prob
        return (log_probs.exp() * worths).sum()

    worth(())
    return found


def parts_of(tokens: Tensor, mask: Tensor) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(prompt, response) of each row."""
    for row, real in zip(tokens.tolist(), mask.tolist(), strict=True):
        start = real.index(True)
        yield tuple(row[:start]), tuple(t for t, m in zip(row, real, strict=True) if m)
