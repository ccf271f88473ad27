"""All but the kernel, which `tests.plain_kernel` stands in for; with it in tests/gpu."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.backbone.flash_attention import Rows, flash_attends, flash_attention
from rlhf_forge.backbone.packed_attention import packed_attention
from tests import plain_kernel
from tests.backbone.test_packed_attention import BLOCKS, HEADS, PADDING, TOKENS, case


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_kernel.put_in(monkeypatch)


ROWS = Rows.of(BLOCKS, torch.device("cpu"))


def flash(qkv: Tensor, cos: Tensor, sin: Tensor, rows: Rows = ROWS) -> Tensor:
    positions = rows.positions.clamp_max(len(cos) - 1)
    return flash_attention(qkv, cos[positions], sin[positions], rows, HEADS)


def test_it_is_the_attention_over_blocks_and_so_is_its_gradient() -> None:
    qkv, cos, sin = case()
    weights = torch.randn(TOKENS, HEADS.queries * HEADS.width, dtype=qkv.dtype)
    weights[PADDING] = 0
    found = []
    for out in (flash(qkv, cos, sin), packed_attention(qkv, cos, sin, BLOCKS, HEADS)):
        found.append((out[:PADDING], *torch.autograd.grad((out * weights).sum(), qkv)))
    for ours, theirs in zip(*found, strict=True):
        assert_close(ours, theirs)


def test_its_gradient_is_that_of_the_formula() -> None:
    qkv, cos, sin = case()
    assert torch.autograd.gradcheck(lambda qkv: flash(qkv, cos, sin), (qkv,))


def test_rows_without_prefixes_are_seen_where_they_lie() -> None:
    rows = Rows.of(BLOCKS[:2], torch.device("cpu"))
    assert rows.seen is None
    assert rows.query_ends.tolist() == rows.key_ends.tolist() == [0, 5, 10, 13]
    assert rows.query_ends.dtype == torch.int32
    assert rows.positions.tolist() == [*range(5), *range(5), *range(3)]


def test_each_key_is_one_use_of_its_token_and_a_step_adds_to_no_token_twice() -> None:
    assert ROWS.seen is not None
    assert ROWS.key_ends.tolist() == [0, 5, 10, 13, 20, 25]
    assert ROWS.positions.tolist()[13:] == [4, 5, 6, 2, 3, 4]
    used = []
    for tokens, places in ROWS.uses:
        assert len(set(tokens.tolist())) == len(tokens)
        assert torch.equal(ROWS.seen[places], tokens)
        used += places.tolist()
    assert sorted(used) == [*range(25)]
    assert torch.equal(ROWS.uses[0][0], torch.arange(TOKENS))


def test_no_rows_give_nothing() -> None:
    qkv, cos, sin = case()
    nothing = flash(qkv[:0], cos, sin, Rows.of((), torch.device("cpu")))
    assert nothing.shape == (0, 24)
    nothing.sum().backward()  # type: ignore[no-untyped-call]


def test_what_the_kernel_does_not_take_is_left_to_the_stock_decoder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu, cuda = torch.device("cuda", 0), torch.cuda
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(cuda, "get_device_capability", lambda _: (8, 6))
    assert flash_attends(gpu, torch.bfloat16, 128)
    assert not flash_attends(gpu, torch.float32, 128)
    # OpenLLaMA 3B's heads, and those that a consumer's card has no backward for.
    assert not flash_attends(gpu, torch.bfloat16, 100)
    assert not flash_attends(gpu, torch.bfloat16, 256)
    monkeypatch.setattr(cuda, "get_device_capability", lambda _: (7, 5))
    assert not flash_attends(gpu, torch.float16, 128)
