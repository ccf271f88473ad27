from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import DynamicCache, MistralForCausalLM, PreTrainedModel

from rlhf_forge.backbone.attention import PLAIN, attention_for, cache_argument, plain_attention
from tests import tiny

MODULE = nn.Module()


def model_with(attention: str, *, sliding_window: int | None = None) -> PreTrainedModel:
    attention_for(tiny.CPU)  # registers ours
    config = tiny.base_config()
    config.sliding_window = sliding_window
    model: PreTrainedModel = MistralForCausalLM.from_pretrained(
        tiny.base(), config=config, attn_implementation=attention
    )
    return model


def left_padded() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, mask and positions of rows of 9, 14 and 6 tokens, padded on the left."""
    tokens = tiny.rows(14, 14, 14)
    mask = torch.stack([torch.arange(14) >= 14 - length for length in (9, 14, 6)]).long()
    return tokens, mask, (mask.cumsum(-1) - 1).clamp_min(0)


@pytest.mark.parametrize("sliding_window", [None, 5])
@pytest.mark.parametrize("stock", ["eager", "sdpa"])
def test_a_model_computes_what_it_does_with_stock_attention(
    stock: str, sliding_window: int | None
) -> None:
    tokens, mask, positions = left_padded()
    results = []
    for attention in (PLAIN, stock):
        model = model_with(attention, sliding_window=sliding_window)
        logits = model(tokens, attention_mask=mask, position_ids=positions).logits
        logits[mask.bool()].logsumexp(-1).sum().backward()
        results.append((logits[mask.bool()], model.model.embed_tokens.weight.grad))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (our_gradient - their_gradient).norm() <= 1e-5 * their_gradient.norm()


@pytest.mark.parametrize("stock", ["eager", "sdpa"])
def test_one_new_token_on_a_cache_computes_what_stock_attention_does(stock: str) -> None:
    tokens, mask, positions = left_padded()
    results = []
    for attention in (PLAIN, stock):
        model = model_with(attention)
        cache = DynamicCache(config=model.config)
        for columns in (slice(0, 12), slice(12, 13), slice(13, 14)):
            with torch.no_grad():
                out = model(
                    tokens[:, columns],
                    attention_mask=mask[:, : columns.stop],
                    position_ids=positions[:, columns],
                    **cache_argument(model, cache),
                )
            results.append(out.logits[:, -1])
    assert_close(results[:3], results[3:], atol=1e-5, rtol=1e-5)


def test_every_group_of_queries_reads_its_own_keys() -> None:
    query, key, value = torch.randn(2, 6, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 8)
    out, _ = plain_attention(MODULE, query, key, value, None, scaling=0.3)
    for head in range(6):
        logits = 0.3 * query[:, head] @ key[:, head // 2].transpose(1, 2)
        assert_close(out[:, :, head], logits.softmax(-1) @ value[:, head // 2])


def test_without_bf16_units_bf16_attention_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_forge.backbone.attention.has_bf16_units", lambda _: False)
    query, key, value = (torch.randn(1, 2, 5, 8).bfloat16() for _ in range(3))
    out, _ = plain_attention(MODULE, query, key, value, None, scaling=0.3)
    exact, _ = plain_attention(MODULE, query.float(), key.float(), value.float(), None, scaling=0.3)
    assert torch.equal(out, exact.bfloat16())


def test_dropout_is_refused() -> None:
    query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    with pytest.raises(ValueError, match="attention_dropout must be 0"):
        plain_attention(MODULE, query, key, value, None, scaling=0.3, dropout=0.1)


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_what_would_change_the_logits_unseen_is_refused(name: str) -> None:
    query, key, value = (torch.randn(1, 2, 5, 8) for _ in range(3))
    without: dict[str, Any] = {name: None}
    plain_attention(MODULE, query, key, value, None, scaling=0.3, **without)
    with pytest.raises(ValueError, match=name):
        plain_attention(MODULE, query, key, value, None, scaling=0.3, **{name: 30.0})


def test_gpus_use_torchs_own_attention() -> None:
    assert attention_for(torch.device("cuda")) == "sdpa"
