import math

import numpy as np
import pytest
import torch

from core.multisource.monte_carlo import bernstein_radius, sampled_tv


def test_the_interval_holds_the_closed_form_as_often_as_it_says(rng):
    """Of 500 intervals at delta = 0.2 at most 0.2 + 4 sd miss; the bound is loose, so far fewer."""
    runs, n, a = 500, 300, 0.7
    x, z = torch.from_numpy(rng.standard_normal((2, runs, n)))
    log_ratio = lambda x: a**2 / 2 - a * x  # noqa: E731, of N(0, 1) over N(a, 1)
    found = sampled_tv(log_ratio(x), log_ratio(z + a), delta=0.2)
    truth = math.erf(a / (2 * math.sqrt(2)))
    missed = ((found.value - truth).abs() > found.error).double().mean()
    assert missed <= 0.2 + 4 * math.sqrt(0.16 / runs)
    spread = found.value.std() / math.sqrt(runs)
    assert abs(found.value.mean() - truth) < 4 * spread  # unbiased


def test_the_radius_is_maurer_and_pontil():
    values = torch.tensor([0.0, 1.0] * 50, dtype=torch.float64)
    log = math.log(40)
    wanted = math.sqrt(2 * (25 / 99) * log / 100) + 7 * log / (3 * 99)
    assert bernstein_radius(values, 0.1) == pytest.approx(wanted, rel=1e-14)


def test_densities_that_do_not_overlap_are_at_one():
    far = torch.full((100,), math.inf)
    assert sampled_tv(far, -far).value == 1


@pytest.mark.parametrize(
    ("p", "q", "delta", "message"),
    [
        (np.zeros(3), np.zeros(4), 0.1, "as many draws of both"),
        (np.zeros(1), np.zeros(1), 0.1, "n >= 2"),
        (np.zeros(3), np.full(3, np.nan), 0.1, "got nan"),
        (np.zeros(3), np.zeros(3), 1.0, r"delta in \(0, 1\)"),
    ],
)
def test_bad_draws_are_refused(p, q, delta, message):
    with pytest.raises(ValueError, match=message):
        sampled_tv(torch.from_numpy(p), torch.from_numpy(q), delta=delta)
