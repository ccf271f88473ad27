"""Products without a gradient: exact, whoever computes them."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from rlhf_forge.functional import products
from rlhf_forge.functional.products import MANY_ROWS, wide_product

ROWS = (1, MANY_ROWS - 1, MANY_ROWS, MANY_ROWS + 37)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(params=["oneDNN where there is one", "no oneDNN"])
def _onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no oneDNN":
        monkeypatch.setattr(products, "_has_onednn", lambda: False)


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


def apart(found: Tensor, expected: Tensor) -> float:
    """Relative distance."""
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.usefixtures("_onednn")
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 6e-3)]
)
def test_a_wide_product_is_that_of_float64(rows: int, dtype: torch.dtype, rounding: float) -> None:
    x, weight = drawn(rows, 48, dtype=dtype), drawn(80, 48, dtype=dtype)
    residual = drawn(rows, 80, dtype=dtype)
    expected = x.double() @ weight.double().T
    assert apart(wide_product(x, weight), expected) < rounding
    with_residual = wide_product(x, weight, residual)
    assert apart(with_residual, expected + residual.double()) < rounding
    assert with_residual.dtype == dtype


@pytest.mark.usefixtures("_onednn")
def test_a_wide_product_leaves_what_it_reads_as_it_was() -> None:
    given = [drawn(300, 48, dtype=torch.float32), drawn(80, 48, dtype=torch.float32)]
    given.append(drawn(300, 80, dtype=torch.float32))
    before = [tensor.clone() for tensor in given]
    wide_product(*given)
    assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))


@pytest.mark.usefixtures("_onednn")
def test_a_wide_product_takes_factors_that_lie_askew_in_memory() -> None:
    x, weight = drawn(48, 300, dtype=torch.float32).T, drawn(48, 80, dtype=torch.float32).T
    part = drawn(300, 100, dtype=torch.float32)[:, 10:58]
    for left in (x, part):
        assert apart(wide_product(left, weight), left.double() @ weight.double().T) < 1e-6


def test_the_operation_of_torchs_compiler_is_there_wherever_onednn_is() -> None:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("torch was built without oneDNN")
    assert products._has_onednn()


def test_a_wide_product_that_should_have_a_gradient_is_refused() -> None:
    x, weight = drawn(2, 48, dtype=torch.float32), drawn(80, 48, dtype=torch.float32)
    with torch.enable_grad(), pytest.raises(AssertionError, match="gradient"):
        wide_product(x, weight)
