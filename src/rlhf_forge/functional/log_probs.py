"""From logits, or from hidden states, to the log-probability of the token that came.

The log-softmax is always taken in float32 (float64 stays): in bf16 it is off by 0.02 nats a token.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def token_log_probs(
    logits: Float[Tensor, "*shape vocab"], tokens: Int[Tensor, "*shape"], *, temperature: float
) -> Float[Tensor, "*shape"]:
    """Log-probability of each token under the logits it was drawn from, in nats.

    Args:
        logits: Unnormalised; -inf for a token that cannot come.
        tokens: Ids below ``vocab``.
        temperature: What the logits are divided by.

    Raises:
        ValueError: If ``temperature`` is not positive.
    """
    scaled = _scaled(logits, temperature)
    return scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - scaled.logsumexp(-1)


def entropy(
    logits: Float[Tensor, "*shape vocab"], *, temperature: float
) -> Float[Tensor, "*shape"]:
    """Entropy of the distribution the logits describe, in nats.

    Args:
        logits: Unnormalised; -inf for a token that cannot come.
        temperature: What the logits are divided by.

    Raises:
        ValueError: If ``temperature`` is not positive.
    """
    scaled = _scaled(logits, temperature)
    log_total = scaled.logsumexp(-1, keepdim=True)
    probabilities = (scaled - log_total).exp()
    # p log p is 0 at p = 0, where log p is -inf: mask the factor, not the product.
    surprise = torch.where(probabilities > 0, log_total - scaled, 0.0)
    return (probabilities * surprise).sum(-1)


def chunked_log_probs(
    hidden: Float[Tensor, "rows hidden"],
    weight: Float[Tensor, "vocab hidden"],
    tokens: Int[Tensor, "rows"],
    *,
    temperature: float,
    chunk_size: int,
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows"]]:
    """Log-probability of each token, and the entropy there, without ever holding all logits.

    Logits of ``chunk_size`` rows at a time are computed, used and dropped; the backward computes
    them once more. Both outputs carry gradients to ``hidden``; ``weight`` is frozen and gets none.

    Args:
        hidden: State that each token was predicted from.
        weight: Of the output layer.
        tokens: Ids below ``vocab``.
        temperature: What the logits are divided by.
        chunk_size: Rows at a time: memory is chunk_size x vocab numbers.

    Returns:
        ``log_probs`` and ``entropy`` in nats, float32 (float64 for float64 input).

    Raises:
        ValueError: If ``temperature`` or ``chunk_size`` is not positive.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be 1 or more, got {chunk_size}")
    _require_positive(temperature)
    outputs: tuple[Tensor, Tensor] = _ChunkedLogProbs.apply(
        hidden, weight.detach(), tokens, temperature, chunk_size
    )
    return outputs


class _ChunkedLogProbs(torch.autograd.Function):
    """Keeps hidden states, log-normalisers and entropies: vectors, where logits are matrices."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, size: int
    ) -> tuple[Tensor, Tensor]:
        precise = _precise(hidden.dtype)
        log_probs = hidden.new_empty(len(tokens), dtype=precise)
        log_totals, entropies = torch.empty_like(log_probs), torch.empty_like(log_probs)
        for start in range(0, len(tokens), size):
            part = slice(start, start + size)
            logits = _logits(hidden[part], weight, temperature)
            log_totals[part] = logits.logsumexp(-1)
            chosen = logits.gather(-1, tokens[part].unsqueeze(-1)).squeeze(-1)
            log_probs[part] = chosen - log_totals[part]
            entropies[part] = entropy(logits, temperature=1.0)
        ctx.save_for_backward(hidden, weight, tokens, log_totals, entropies)
        ctx.temperature, ctx.size = temperature, size
        return log_probs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        hidden, weight, tokens, log_totals, entropies = ctx.saved_tensors
        grad_log_probs, grad_entropies = grads
        grad_hidden = torch.empty_like(hidden)
        for start in range(0, len(tokens), ctx.size):
            part = slice(start, start + ctx.size)
            logits = _logits(hidden[part], weight, ctx.temperature)
            logs = logits - log_totals[part].unsqueeze(-1)
            p = logs.exp()
            # d log p_y / d z = onehot(y) - p;   d H / d z = -p (log p + H)
            surprise = torch.where(p > 0, logs + entropies[part].unsqueeze(-1), 0.0)
            grad = -p * grad_log_probs[part].unsqueeze(-1)
            grad -= p * surprise * grad_entropies[part].unsqueeze(-1)
            grad.scatter_add_(
                -1, tokens[part].unsqueeze(-1), grad_log_probs[part].unsqueeze(-1)
            )
            grad_hidden[part] = _product(grad / ctx.temperature, weight.t(), hidden.dtype)
        return grad_hidden, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    return _product(hidden, weight, _precise(hidden.dtype)) / temperature


def _product(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``x @ weight.T`` as ``dtype``.

    On a CPU a bf16 product takes up to a hundred times longer than one of float32 copies, whose
    result is no less exact.
    """
    if weight.dtype == torch.bfloat16 and x.device.type == "cpu":
        return (x.float() @ weight.float().t()).to(dtype)
    return (x.to(weight.dtype) @ weight.t()).to(dtype)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    _require_positive(temperature)
    return logits.to(_precise(logits.dtype)) / temperature


def _precise(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _require_positive(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
