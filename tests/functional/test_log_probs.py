import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rlhf_forge.functional.log_probs import chunked_log_probs, entropy, token_log_probs
from rlhf_forge.functional.products import product

QUARTERS = torch.tensor([[[math.log(1.0), math.log(3.0)]]], dtype=torch.float64)
INF = float("inf")


def test_log_prob_by_hand() -> None:
    log_probs = token_log_probs(QUARTERS, torch.tensor([[1]]), temperature=1.0)
    assert_close(log_probs, torch.tensor([[math.log(0.75)]], dtype=torch.float64))


def test_temperature_divides_the_logits() -> None:
    log_probs = token_log_probs(QUARTERS, torch.tensor([[1]]), temperature=0.5)
    assert_close(log_probs, torch.tensor([[math.log(9 / 10)]], dtype=torch.float64))


def test_entropy_by_hand() -> None:
    expected = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert_close(entropy(QUARTERS, temperature=1).item(), expected)
    cold = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    assert_close(entropy(QUARTERS, temperature=0.5).item(), cold)


def test_entropy_is_zero_when_certain_and_log_of_the_vocabulary_when_ignorant() -> None:
    logits = torch.tensor([[0.0, -INF, -INF, -INF], [7.0, 7.0, 7.0, 7.0]])
    assert_close(entropy(logits, temperature=1.0), torch.tensor([0.0, math.log(4)]))


def test_probabilities_of_the_whole_vocabulary_add_up_to_one() -> None:
    logits = torch.randn(5, dtype=torch.float64).expand(5, 5)
    log_probs = token_log_probs(logits, torch.arange(5), temperature=0.7)
    assert_close(log_probs.exp().sum().item(), 1.0)


def test_a_common_shift_of_the_logits_changes_nothing_even_in_float32() -> None:
    logits, tokens = torch.randn(3, 50), torch.randint(50, (3,))
    shifted = (logits * 1024).round() / 1024 + 4096
    logits = shifted - 4096
    for function in (entropy, lambda x, *, temperature: token_log_probs(x, tokens, temperature=1)):
        assert_close(
            function(shifted, temperature=1), function(logits, temperature=1), rtol=0, atol=0
        )


def test_tokens_that_cannot_be_drawn_leave_everything_finite() -> None:
    logits = torch.tensor([[1.0, -INF, 2.0]], dtype=torch.float64, requires_grad=True)
    without = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    for wide, narrow in (
        (entropy(logits, temperature=1), entropy(without, temperature=1)),
        (
            token_log_probs(logits, torch.tensor([2]), temperature=1),
            token_log_probs(without, torch.tensor([1]), temperature=1),
        ),
    ):
        (gradient,) = torch.autograd.grad(wide.sum(), logits)
        (expected,) = torch.autograd.grad(narrow.sum(), without)
        assert_close(wide, narrow)
        assert_close(gradient[:, [0, 2]], expected)
        assert gradient[0, 1] == 0


def test_drawing_what_cannot_be_drawn_has_log_prob_minus_infinity() -> None:
    logits = torch.tensor([[1.0, -INF]])
    assert token_log_probs(logits, torch.tensor([1]), temperature=1).item() == -INF


@pytest.mark.parametrize("function", ["token_log_probs", "entropy"])
def test_gradients_are_those_of_the_formula(function: str) -> None:
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(4, (2, 3))
    assert torch.autograd.gradcheck(
        lambda x: (
            entropy(x, temperature=0.7)
            if function == "entropy"
            else token_log_probs(x, tokens, temperature=0.7)
        ),
        logits,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_only_ever_rounded_once(dtype: torch.dtype) -> None:
    logits, tokens = (5 * torch.randn(4, 6, 100)).to(dtype), torch.randint(100, (4, 6))
    assert torch.equal(
        token_log_probs(logits, tokens, temperature=0.7),
        token_log_probs(logits.float(), tokens, temperature=0.7),
    )
    assert torch.equal(entropy(logits, temperature=0.7), entropy(logits.float(), temperature=0.7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (0, 4), (2, 0), (2, 3, 4)], ids=str)
def test_results_have_the_shape_of_the_tokens(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits, tokens = torch.randn(*shape, 5, dtype=dtype), torch.randint(5, shape)
    for result in (token_log_probs(logits, tokens, temperature=1), entropy(logits, temperature=1)):
        assert (result.shape, result.dtype) == (shape, dtype)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_an_illegal_temperature_is_named(temperature: float) -> None:
    line = f"temperature must be a finite number above 0: got {temperature}"
    logits, token = torch.zeros(1, 2), torch.tensor([0])
    with pytest.raises(ValueError, match=line):
        token_log_probs(logits, token, temperature=temperature)
    with pytest.raises(ValueError, match=line):
        entropy(logits, temperature=temperature)
    with pytest.raises(ValueError, match=line):
        chunked_log_probs(logits, torch.zeros(3, 2), token, temperature=temperature, chunk_size=1)


# -- chunked -------------------------------------------------------------------------------------

ROWS, WIDTH, VOCAB = 7, 5, 11


def case(dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(rows, WIDTH, dtype=dtype, requires_grad=True)
    return hidden, torch.randn(VOCAB, WIDTH, dtype=dtype), torch.randint(VOCAB, (rows,))


def whole(hidden: Tensor, weight: Tensor, tokens: Tensor, *, temperature: float) -> list[Tensor]:
    logits = hidden @ weight.T
    return [
        token_log_probs(logits, tokens, temperature=temperature),
        entropy(logits, temperature=temperature),
    ]


@pytest.mark.parametrize("chunk_size", [1, 3, ROWS, 100])
@pytest.mark.parametrize("used", [[0], [1], [0, 1]], ids=["log_probs", "entropy", "both"])
def test_chunks_give_the_results_and_gradients_of_whole_logits(
    chunk_size: int, used: list[int]
) -> None:
    hidden, weight, tokens = case()
    results = chunked_log_probs(hidden, weight, tokens, temperature=0.7, chunk_size=chunk_size)
    expected = whole(hidden, weight, tokens, temperature=0.7)
    assert_close(list(results), expected, rtol=1e-13, atol=1e-14)

    cotangents = [torch.randn(ROWS, dtype=torch.float64) for _ in used]
    (gradient,) = torch.autograd.grad([results[i] for i in used], hidden, cotangents)
    (reference,) = torch.autograd.grad([expected[i] for i in used], hidden, cotangents)
    assert_close(gradient, reference, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("train_weight", [False, True])
def test_chunked_gradients_are_those_of_the_formula(train_weight: bool) -> None:
    hidden, weight, tokens = case(rows=3)
    weight.requires_grad_(train_weight)
    assert torch.autograd.gradcheck(
        lambda h, w: chunked_log_probs(h, w, tokens, temperature=0.7, chunk_size=2),
        (hidden, weight),
    )


def test_a_frozen_weight_gets_no_gradient() -> None:
    hidden, weight, tokens = case()
    log_probs, _ = chunked_log_probs(hidden, weight, tokens, temperature=1, chunk_size=3)
    torch.autograd.backward(log_probs.sum())
    assert hidden.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("train_weight", [False, True])
def test_bfloat16_is_near_the_float32_product_of_the_same_numbers(
    train_weight: bool, units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlhf_forge.functional.products.has_bf16_units", lambda _: units)
    hidden, weight, tokens = case(torch.bfloat16)
    weight.requires_grad_(train_weight)
    wide = [x.detach().float().requires_grad_(x.requires_grad) for x in (hidden, weight)]
    results = chunked_log_probs(hidden, weight, tokens, temperature=0.7, chunk_size=3)
    expected = chunked_log_probs(wide[0], wide[1], tokens, temperature=0.7, chunk_size=3)
    assert all(result.dtype == torch.float32 for result in results)
    assert_close(results, expected, rtol=0, atol=0.03)

    for outputs in (results, expected):
        torch.autograd.backward((outputs[0] + 2 * outputs[1]).sum())
    for narrow, reference in zip((hidden, weight), wide, strict=True):
        if reference.grad is None:
            assert narrow.grad is None
        else:
            assert narrow.grad is not None
            assert (narrow.grad - reference.grad).norm() <= 0.02 * reference.grad.norm()


def test_in_bfloat16_a_certain_token_has_log_probability_0_and_not_what_its_logit_lost() -> None:
    hidden, weight = torch.full((1, 8), 2.54), torch.zeros(4, 8)
    weight[2] = 5.03  # a logit of 102.3, between two bfloat16 numbers
    log_probs, _ = chunked_log_probs(
        hidden.bfloat16(), weight.bfloat16(), torch.tensor([2]), temperature=1, chunk_size=1
    )
    assert log_probs.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_rows_give_no_results_and_an_empty_gradient(dtype: torch.dtype) -> None:
    hidden, weight, tokens = case(dtype, rows=0)
    results = chunked_log_probs(hidden, weight, tokens, temperature=1, chunk_size=4)
    assert [(result.shape, result.dtype) for result in results] == [((0,), dtype)] * 2
    torch.autograd.backward(torch.stack(results).sum())
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, WIDTH)


def test_a_row_is_the_same_whatever_chunk_it_stands_in() -> None:
    hidden, weight, tokens = case()
    straight = chunked_log_probs(hidden, weight, tokens, temperature=1, chunk_size=3)
    order = torch.randperm(ROWS)
    permuted = chunked_log_probs(hidden[order], weight, tokens[order], temperature=1, chunk_size=3)
    assert_close([x[order] for x in straight], list(permuted))


def test_no_more_than_one_chunk_of_logits_ever_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, tokens = case()
    rows_at_once = []

    def spy(x: Tensor, factor: Tensor) -> Tensor:
        if len(factor) == VOCAB:
            rows_at_once.append(len(x))
        return product(x, factor)

    monkeypatch.setattr("rlhf_forge.functional.log_probs.wide_product", spy)
    log_probs, entropies = chunked_log_probs(hidden, weight, tokens, temperature=1, chunk_size=3)
    kept = getattr(log_probs.grad_fn, "saved_tensors", ())
    torch.autograd.backward(log_probs.sum(), retain_graph=True)
    assert rows_at_once == [3, 3, 1]
    torch.autograd.backward(entropies.sum())
    assert rows_at_once == [3, 3, 1] * 2
    assert sorted(x.numel() for x in kept) == [
        *(ROWS, ROWS),
        *(ROWS * WIDTH, ROWS * WIDTH),
        VOCAB * WIDTH,
    ]


def test_inputs_are_left_as_they_were() -> None:
    hidden, weight, tokens = case(torch.float32)
    before = [x.detach().clone() for x in (hidden, weight, tokens)]
    log_probs, entropies = chunked_log_probs(hidden, weight, tokens, temperature=2, chunk_size=3)
    torch.autograd.backward((log_probs + entropies).sum())
    assert_close([hidden.detach(), weight, tokens], before, rtol=0, atol=0)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    hidden, weight, tokens = case()
    log_probs, _ = chunked_log_probs(hidden, weight, tokens, temperature=1, chunk_size=3)
    (gradient,) = torch.autograd.grad(log_probs.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(gradient.sum())


def test_an_illegal_chunk_size_is_named() -> None:
    hidden, weight, tokens = case()
    with pytest.raises(ValueError, match="chunk_size must be 1 or more: got 0"):
        chunked_log_probs(hidden, weight, tokens, temperature=1, chunk_size=0)


def test_two_dtypes_are_named() -> None:
    hidden, weight, tokens = case()
    line = "must have one dtype: got torch.float64 and torch.float32"
    with pytest.raises(ValueError, match=line):
        chunked_log_probs(hidden, weight.float(), tokens, temperature=1, chunk_size=1)
