from fractions import Fraction

import numpy as np
import pytest
import torch

from core.multisource.enumeration import enumerated_tv


@pytest.mark.parametrize("N", [1, 2, 7, 501])
def test_a_list_of_outcomes_in_exact_arithmetic(rng, N):
    p, q = rng.dirichlet(np.ones(N), size=(2, 3))
    found = enumerated_tv(torch.tensor(p), torch.tensor(q))
    for k in range(3):
        a, b = ([Fraction(x) for x in row] for row in (p[k], q[k]))
        A, B = sum(a), sum(b)
        truth = sum(abs(x * B - y * A) for x, y in zip(a, b, strict=True)) / (2 * A * B)
        assert abs(Fraction(found.value[k].item()) - truth) <= found.error[k].item()
    assert found.error.max() < 1e-12


def test_float32_probabilities_are_taken_with_what_they_lack_to_one(rng):
    p = torch.tensor(rng.dirichlet(np.ones(999)), dtype=torch.float32)
    q = torch.tensor(rng.dirichlet(np.ones(999)), dtype=torch.float32)
    found = enumerated_tv(p, q)
    truth = (p.double() / p.double().sum() - q.double() / q.double().sum()).abs().sum() / 2
    assert abs(found.value - truth) <= found.error < 1e-6


def test_leading_axes_are_broadcast(rng):
    p, q = torch.tensor([0.5, 0.5]), torch.tensor(rng.dirichlet(np.ones(2), size=(3, 4)))
    found = enumerated_tv(p, q)
    assert found.value.shape == found.error.shape == (3, 4)
    torch.testing.assert_close(found.value, (q[..., 0] - 0.5).abs(), rtol=0, atol=1e-15)
    assert (found.low <= found.value).all()
    assert (found.value <= found.high).all()


@pytest.mark.parametrize(
    ("p", "message"),
    [
        ([0.5, 0.4], "sum to one over the last axis, got a sum of 0.9"),
        ([1.5, -0.5], "probabilities p >= 0, got -0.5"),
        ([float("nan"), 1.0], "got nan"),
        ([1.0], "the same outcomes"),
    ],
)
def test_what_are_no_probabilities_is_refused(p, message):
    with pytest.raises(ValueError, match=message):
        enumerated_tv(torch.tensor(p), torch.tensor([0.5, 0.5]))
