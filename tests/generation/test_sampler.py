import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf_forge.generation.sampler import Sampling, draw, uniform_draws

ALMOST_ONE = math.nextafter(1.0, 0.0)


def drawn(probabilities: list[float], uniforms: list[float], sampling: Sampling) -> list[int]:
    logits = torch.tensor(probabilities).log().expand(len(uniforms), -1)
    return draw(logits, torch.tensor(uniforms, dtype=torch.float64), sampling).tolist()


def everything_drawn(logits: Tensor, sampling: Sampling) -> set[int]:
    grid = torch.linspace(0, ALMOST_ONE, 4001, dtype=torch.float64)
    return set(draw(logits.expand(len(grid), -1), grid, sampling).tolist())


def test_a_draw_inverts_the_distribution_function() -> None:
    uniforms = [0.0, 0.2499, 0.2501, 0.7499, 0.7501, ALMOST_ONE]
    assert drawn([0.25, 0.5, 0.25], uniforms, Sampling()) == [0, 0, 1, 1, 2, 2]


def test_frequencies_follow_the_tempered_distribution() -> None:
    logits = torch.randn(8)
    uniforms = torch.from_numpy(uniform_draws([(1, 2, 3)], 20_000)[0])
    counts = torch.bincount(
        draw(logits.expand(20_000, -1), uniforms, Sampling(temperature=0.5)), minlength=8
    )
    expected = 20_000 * (logits.double() / 0.5).softmax(-1)
    chi_square = ((counts - expected).square() / expected).sum()
    assert chi_square < 24.3  # 7 degrees of freedom: one seed in a thousand is above


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.999), Sampling(top_k=3)])
def test_a_token_of_probability_zero_is_never_drawn(sampling: Sampling) -> None:
    uniforms = [0.0, 1e-300, 0.4999999, 0.5, 0.5000001, ALMOST_ONE]
    assert set(drawn([0.0, 0.5, 0.0, 0.5, 0.0], uniforms, sampling)) == {1, 3}


@given(st.integers(0, 2**32 - 1), st.floats(0, 1, exclude_max=True))
def test_no_uniform_number_draws_a_masked_token(seed: int, uniform: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(1, 50, generator=generator)
    masked = torch.rand(1, 50, generator=generator) < 0.5
    masked[0, seed % 50] = False
    logits[masked] = -torch.inf
    token = draw(logits, torch.tensor([uniform], dtype=torch.float64), Sampling(top_p=0.9))
    assert not masked[0, token]


def test_temperature_0_takes_the_likeliest_token() -> None:
    logits = torch.randn(5, 20)
    uniforms = torch.rand(5)
    assert torch.equal(draw(logits, uniforms, Sampling(temperature=0.0)), logits.argmax(-1))


def test_a_tiny_temperature_is_nearly_greedy_and_overflows_nowhere() -> None:
    logits = 30 * torch.randn(5, 20)
    assert torch.equal(draw(logits, torch.rand(5), Sampling(temperature=1e-30)), logits.argmax(-1))


@pytest.mark.parametrize(
    ("top_k", "expected"), [(1, {3}), (2, {1, 3}), (3, {0, 1, 3}), (9, {0, 1, 2, 3})]
)
def test_top_k_draws_from_the_k_likeliest_tokens(top_k: int, expected: set[int]) -> None:
    logits = torch.tensor([0.2, 0.25, 0.1, 0.45]).log()
    assert everything_drawn(logits, Sampling(top_k=top_k)) == expected


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(1e-9, {3}), (0.44, {3}), (0.46, {1, 3}), (0.71, {0, 1, 3}), (0.99, {0, 1, 2, 3})],
)
def test_top_p_draws_from_the_smallest_set_that_probable(top_p: float, expected: set[int]) -> None:
    logits = torch.tensor([0.2, 0.25, 0.1, 0.45]).log()
    assert everything_drawn(logits, Sampling(top_p=top_p)) == expected


def test_top_k_and_top_p_together_draw_from_the_smaller_set() -> None:
    logits = torch.tensor([0.2, 0.25, 0.1, 0.45]).log()
    assert everything_drawn(logits, Sampling(top_k=1, top_p=0.9)) == {3}
    assert everything_drawn(logits, Sampling(top_k=3, top_p=0.5)) == {1, 3}


def test_what_is_kept_keeps_its_odds() -> None:
    # 0.45 and 0.25 are left; the second, token 1, comes first in the distribution function.
    edge = 0.25 / 0.7
    uniforms = [edge - 1e-6, edge + 1e-6]
    assert drawn([0.2, 0.25, 0.1, 0.45], uniforms, Sampling(top_k=2)) == [1, 3]


def test_equal_logits_at_the_edge_of_top_k_leave_the_first_ones() -> None:
    assert everything_drawn(torch.zeros(50), Sampling(top_k=3)) == {0, 1, 2}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.8, top_k=10, temperature=0.7)])
def test_a_rows_token_does_not_depend_on_its_neighbours(sampling: Sampling) -> None:
    logits, uniforms = torch.randn(16, 100), torch.rand(16, dtype=torch.float64)
    together = draw(logits, uniforms, sampling)
    order = torch.randperm(16)
    assert torch.equal(draw(logits[order], uniforms[order], sampling), together[order])
    alone = [draw(logits[[row]], uniforms[[row]], sampling) for row in range(16)]
    assert torch.equal(torch.cat(alone), together)


def test_a_rows_numbers_are_a_function_of_its_key_alone() -> None:
    keys = [(0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1, 3)]
    together = uniform_draws(keys, 5)
    assert len({row.tobytes() for row in together}) == 4
    for row, key in enumerate(keys):
        assert np.array_equal(uniform_draws([key], 5)[0], together[row])
        assert np.array_equal(uniform_draws([key], 9)[0][:5], together[row])
    assert together.min() >= 0
    assert together.max() < 1


def test_no_keys_give_no_numbers() -> None:
    assert uniform_draws([], 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_new_tokens", 0),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(setting: str, value: float) -> None:
    changed: dict[str, float] = {setting: value}
    with pytest.raises(ValueError, match=f"{setting} must be"):
        Sampling(**changed)  # type: ignore[arg-type] # an int where one is wanted
