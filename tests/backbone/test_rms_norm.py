import torch
from torch.testing import assert_close
from transformers.models.mistral.modeling_mistral import MistralRMSNorm

from rlhf_forge.backbone.rms_norm import rms_norm


def test_it_is_transformers_norm() -> None:
    norm = MistralRMSNorm(16, eps=1e-3)
    norm.weight.data.uniform_(0.5, 2.0)
    for dtype, error in ((torch.float32, 1e-6), (torch.bfloat16, 0.02)):
        x = torch.randn(5, 16).to(dtype)
        ours = rms_norm(x, norm.weight.data.to(dtype), eps=1e-3)
        assert ours.dtype == dtype
        assert_close(ours, norm(x).to(dtype), atol=error, rtol=0)


def test_its_gradient_is_that_of_the_formula() -> None:
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(8, dtype=torch.float64) + 0.5
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, weight, eps=1e-2), (x,))


def test_a_bfloat16_gradient_is_rounded_once() -> None:
    x, weight = torch.randn(4, 32).bfloat16(), torch.rand(32).bfloat16()
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        leaf = x.to(dtype, copy=True).requires_grad_()
        rms_norm(leaf, weight.to(dtype), eps=1e-3).sum().backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        results.append(leaf.grad)
    assert_close(results[0], results[1].bfloat16(), rtol=0.01, atol=1e-3)
