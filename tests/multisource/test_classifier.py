import math

import numpy as np
import pytest
import torch
from scipy import stats

from core.multisource.classifier import classifier_bound, clopper_pearson, learned_bound


@pytest.mark.parametrize(("s", "n"), [(0, 5), (5, 5), (3, 17), (40, 100)])
def test_the_interval_is_scipys(s, n):
    found = clopper_pearson(torch.tensor(s), n, 0.05)
    wanted = stats.binomtest(s, n).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_the_bound_is_right_as_often_as_it_says(rng):
    """P(A) = 0.6 and Q(A) = 0.5: the bound exceeds 0.1 in delta of all cases at most."""
    p, q = torch.from_numpy(rng.random((2, 4000, 50)))
    found = classifier_bound(p < 0.6, q < 0.5, delta=0.2)
    wrong = (found.low > 0.1).double().mean().item()
    assert wrong <= 0.2 + 4 * math.sqrt(0.16 / 4000)
    assert abs(found.value.mean() - 0.1) < 4 * found.value.std() / math.sqrt(4000)


def test_a_learned_set_comes_near_the_truth_from_below(rng):
    n = 20_000
    x, y = torch.from_numpy(rng.standard_normal((2, n, 2)))
    y = y * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, 0.0])
    found = learned_bound(x, y, seed=3)
    from core.multisource.gaussian_tv import gaussian_tv

    eye, zero = torch.eye(2), torch.zeros(2)
    truth = gaussian_tv(zero, eye, torch.tensor([1.0, 0.0]), torch.diag(torch.tensor([4.0, 0.25])))
    assert found.low <= truth.high
    # the best set is quadratic; what is lost is chance: 3.3 sd of two shares of 10,000, and fitting
    assert found.low > truth.value - 0.06


def test_samples_of_one_law_are_not_told_apart(rng):
    lows = []
    for seed in range(40):
        x, y = torch.from_numpy(rng.standard_normal((2, 100, 3)))
        lows.append(learned_bound(x, y, seed=seed, delta=0.05).low.item())
    assert np.count_nonzero(lows) <= 2 + 4 * math.sqrt(2)


def test_separable_samples_do_not_break_the_fit(rng):
    x = torch.from_numpy(rng.standard_normal((400, 1)))
    found = learned_bound(x, x + 100)
    assert found.value == 1
    assert found.low > 0.9


def test_a_constant_variable_is_no_trouble(rng):
    x, y = torch.from_numpy(rng.standard_normal((2, 200, 2)))
    x[:, 1] = y[:, 1] = 3.0
    assert learned_bound(x, y + 2).low > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learned_bound(torch.zeros(9, 2), torch.zeros(9, 3)), r"\[n, d\] and \[m, d\]"),
        (lambda: learned_bound(torch.zeros(3, 2), torch.zeros(9, 2)), "n >= 4"),
        (lambda: classifier_bound(torch.ones(0).bool(), torch.ones(5).bool()), "trials >= 1"),
        (lambda: clopper_pearson(torch.tensor(1), 2, 0.0), r"delta in \(0, 1\)"),
    ],
)
def test_bad_samples_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
