"""Log-probabilities of tokens and entropies of distributions, always in float32 or better."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf_forge.functional.products import product, wide_product


def token_log_probs(
    logits: Float[Tensor, "*shape vocab"],
    tokens: Int[Tensor, "*shape"],
    *,
    temperature: float | int,
) -> Float[Tensor, "*shape"]:
    """Log-probability of each token under the distribution that its logits give.

    Args:
        logits: Those from which the token was or would be drawn: the model's output one position
            before it.
        tokens: Token ids.
        temperature: What the logits are divided by, above 0; the one used in sampling.

    Returns:
        One for each token, in nats, at most 0; float32, or float64 for float64 logits. −inf for a
        token whose logit is −inf.

    Raises:
        ValueError: If ``temperature`` is not a finite number above 0.
    """
    _check_temperature(temperature)
    log_probs = _log_softmax(logits, temperature)
    return log_probs.gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)


def entropy(
    logits: Float[Tensor, "*shape vocab"], *, temperature: float | int
) -> Float[Tensor, "*shape"]:
    """Entropy of the distribution that each row of logits gives.

    Args:
        logits: −inf is legal and means that a token cannot be drawn.
        temperature: What the logits are divided by, above 0.

    Returns:
        From 0 (one token is certain) to the log of the vocabulary's size (all alike), in nats;
        float32, or float64 for float64 logits.

    Raises:
        ValueError: If ``temperature`` is not a finite number above 0.
    """
    _check_temperature(temperature)
    log_probs = _log_softmax(logits, temperature)
    probs = log_probs.exp()
    # A token that cannot be drawn adds nothing, but 0 · −inf would be nan, gradient included.
    return -(probs * log_probs.masked_fill(probs == 0, 0)).sum(-1)


def chunked_log_probs(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocab width"],
    tokens: Int[Tensor, "tokens"],
    *,
    temperature: float | int,
    chunk_size: int,
) -> tuple[Float[Tensor, "tokens"], Float[Tensor, "tokens"]]:
    """`token_log_probs` and `entropy` of ``hidden @ weight.T``, without ever holding all logits.

    Rows are taken ``chunk_size`` at a time, so memory is a few times ``chunk_size · vocab`` numbers
    however many tokens there are. Both results can be differentiated, once; a gradient of entropies
    computes the logits once more.

    Args:
        hidden: Last hidden state one position before each token, of real tokens only.
        weight: The output embedding. Gets a gradient only where it asks for one: frozen, it
            costs nothing.
        tokens: Token ids.
        temperature: What the logits are divided by, above 0.
        chunk_size: Rows to hold the logits of at once, 1 or more. It changes results by rounding
            at most.

    Returns:
        ``log_probs`` and ``entropy``, in nats; float32, or float64 for float64 inputs.

    Raises:
        ValueError: If ``temperature`` is not a finite number above 0, ``chunk_size`` is below 1,
            or ``hidden`` and ``weight`` differ in dtype.
    """
    _check_temperature(temperature)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be 1 or more: got {chunk_size}")
    if hidden.dtype != weight.dtype:
        raise ValueError(
            f"hidden and weight must have one dtype: got {hidden.dtype} and {weight.dtype}"
        )
    results: tuple[Tensor, Tensor] = _ChunkedLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, tokens.long(), temperature, chunk_size
    )
    return results


class _ChunkedLogProbs(torch.autograd.Function):
    """Keeps no logits for the backward pass, only where each row's log-probability pulls.

    The gradient of a log-probability with respect to its hidden state is a direction that is known
    in the forward, times a number that is not: with the direction kept, the backward needs no
    logits. Only a gradient of entropies, or one to the weight, computes them once more.
    """

    @staticmethod
    def forward(  # type: ignore[explicit-override] # typing has override from Python 3.12 on
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        temperature: float | int,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        log_probs = torch.empty(len(hidden), dtype=_result_dtype(hidden), device=hidden.device)
        entropies = torch.empty_like(log_probs)
        pulls = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for rows in _chunks(len(hidden), chunk_size):
            logits = _logits(hidden[rows], weight, tokens[rows], temperature)
            peak = logits.amax(1, keepdim=True)
            picked = logits.gather(1, tokens[rows, None]) - peak
            odds = logits.sub_(peak).exp()
            total = odds.sum(1, keepdim=True)
            log_probs[rows] = (picked - total.log()).squeeze(1)
            entropies[rows] = (total.log() - logits.mul_(odds).sum(1, keepdim=True) / total)[:, 0]
            if pulls is not None:
                mean = wide_product(odds.to(weight.dtype), weight.T) / total
                pulls[rows] = weight[tokens[rows]] - mean
        ctx.save_for_backward(hidden, weight, tokens, entropies, pulls)
        ctx.temperature, ctx.chunk_size = temperature, chunk_size
        ctx.set_materialize_grads(False)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[explicit-override] # as above
        ctx: Any, grad_log_probs: Tensor | None, grad_entropies: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, tokens, entropies, pulls = ctx.saved_tensors
        if grad_entropies is None and not ctx.needs_input_grad[1]:
            if grad_log_probs is None or pulls is None:
                return None, None, None, None, None
            scaled = grad_log_probs[:, None] / ctx.temperature
            return (pulls * scaled).to(hidden.dtype), None, None, None, None
        grads = [
            entropies.new_zeros(len(hidden)) if g is None else g
            for g in (grad_log_probs, grad_entropies)
        ]
        grad_hidden, grad_weight = torch.empty_like(hidden), None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=entropies.dtype)
        for rows in _chunks(len(hidden), ctx.chunk_size):
            logits = _logits(hidden[rows], weight, tokens[rows], ctx.temperature)
            grad_logits = _grad_logits(
                torch.log_softmax(logits, dim=1),
                *(x[rows, None] for x in (tokens, entropies, *grads)),
            )
            grad_logits = grad_logits.div_(ctx.temperature).to(weight.dtype)
            grad_hidden[rows] = wide_product(grad_logits, weight.T)
            if grad_weight is not None:
                grad_weight += product(grad_logits.T, hidden[rows].T)
        return grad_hidden, grad_weight, None, None, None


def _logits(
    states: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocab width"],
    tokens: Int[Tensor, "rows"],
    temperature: float | int,
) -> Float[Tensor, "rows vocab"]:
    """Logits over the temperature, in the dtype of the results.

    A bfloat16 product rounds them to 8 bits, which a mean over the vocabulary hardly feels; the one
    of each row's token, by which its log-probability moves, is computed apart, in full.
    """
    logits = wide_product(states, weight)
    if logits.dtype != _result_dtype(states):
        logits = logits.to(_result_dtype(states))
        exact = (states.to(logits.dtype) * weight[tokens]).sum(1, keepdim=True)
        logits.scatter_(1, tokens[:, None], exact)
    return logits if temperature == 1 else logits.div_(temperature)


def _grad_logits(
    vocab_log_probs: Float[Tensor, "rows vocab"],
    tokens: Int[Tensor, "rows 1"],
    entropies: Float[Tensor, "rows 1"],
    grad_log_probs: Float[Tensor, "rows 1"],
    grad_entropies: Float[Tensor, "rows 1"],
) -> Float[Tensor, "rows vocab"]:
    """Gradient of both results with respect to logits / temperature.

    ∂ log p(y) / ∂z_j = [j = y] − p_j    and    ∂H / ∂z_j = −p_j (log p_j + H)
    """
    # In place: a chunk is as large as memory allows, and its log-probabilities end here.
    probs = vocab_log_probs.exp()
    pull = vocab_log_probs.add_(entropies).mul_(grad_entropies).add_(grad_log_probs)
    return pull.mul_(probs).neg_().scatter_add_(1, tokens, grad_log_probs)


def _log_softmax(
    logits: Float[Tensor, "*shape vocab"], temperature: float | int
) -> Float[Tensor, "*shape vocab"]:
    # In bfloat16 the result would be off by about 0.02 nats per token.
    return torch.log_softmax(logits.to(_result_dtype(logits)) / temperature, dim=-1)


def _result_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunks(num_rows: int, chunk_size: int) -> list[slice]:
    return [slice(start, start + chunk_size) for start in range(0, num_rows, chunk_size)]


def _check_temperature(temperature: float | int) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a finite number above 0: got {temperature}")
