import torch
from torch.nn import functional as F
from torch.testing import assert_close

from rlhf_forge.backbone.swiglu import swiglu


def test_it_is_the_silu_of_one_half_times_the_other() -> None:
    x = torch.randn(3, 10)
    assert_close(swiglu(x), F.silu(x[:, :5]) * x[:, 5:])


def test_its_gradient_is_that_of_the_formula() -> None:
    x = torch.randn(3, 10, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(swiglu, (x,))
