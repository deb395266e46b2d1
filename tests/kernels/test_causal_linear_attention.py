import itertools

import pytest
import torch

from core.kernels.causal_linear_attention import causal_linear_attention, reference_attention


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(("normalize", "reverse"), list(itertools.product([False, True], repeat=2)))
def test_the_blocked_form_and_its_gradients_are_those_of_the_formula(dtype, normalize, reverse):
    q, k = torch.randn(2, 2, 3, 71, 5, dtype=dtype).requires_grad_()
    v = torch.randn(2, 3, 71, 2, dtype=dtype, requires_grad=True)
    g = torch.randn(2, 3, 71, 2, dtype=dtype)
    options = {"normalize": normalize, "reverse": reverse}
    here = causal_linear_attention(q, k, v, impl="torch", **options)
    there = reference_attention(q, k, v, **options)
    torch.testing.assert_close(here, there)
    gradients = torch.autograd.grad(here, (q, k, v), g)
    torch.testing.assert_close(gradients, torch.autograd.grad(there, (q, k, v), g))
