"""The fused kernel's contract in plain operations, for machines without a GPU, in any dtype."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from rlhf_forge.backbone import flash_attention
from rlhf_forge.backbone.flash_attention import Rows


def put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `flash_attention` call these instead."""
    monkeypatch.setattr(flash_attention, "forward_kernel", forward)
    monkeypatch.setattr(flash_attention, "backward_kernel", backward)


def forward(
    query: Tensor, key: Tensor, value: Tensor, rows: Rows, scaling: float
) -> tuple[Tensor, ...]:
    mixed = torch.empty_like(query, memory_format=torch.contiguous_format)
    for own, seen in spans(rows):
        mixed[own] = attended(query[own], key[seen], value[seen], scaling)
    return (mixed,)


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    kept: Sequence[Tensor],
    rows: Rows,
    scaling: float,
) -> tuple[Tensor, ...]:
    leaves = [x.detach().clone().requires_grad_() for x in (query, key, value)]
    with torch.enable_grad():
        mixed = torch.empty_like(out)
        for own, seen in spans(rows):
            mixed[own] = attended(leaves[0][own], leaves[1][seen], leaves[2][seen], scaling)
        return torch.autograd.grad(mixed, leaves, grad)


def spans(rows: Rows) -> list[tuple[slice, slice]]:
    """Of each row its queries and its keys."""
    bounds = [
        [slice(*ends) for ends in pairwise(e.tolist())] for e in (rows.query_ends, rows.key_ends)
    ]
    for most, found in zip(rows.most, bounds, strict=True):
        assert most == max(span.stop - span.start for span in found)
    return list(zip(*bounds, strict=True))


def attended(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """One row's; its last query sees its last key."""
    group = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key, value))
    logits = torch.einsum("qhd,khd->hqk", query * scaling, key)
    behind = len(key) - len(query)
    hidden = torch.ones(logits.shape[1:], dtype=torch.bool).triu_(behind + 1)
    weights = logits.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)
