import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from core.multisource.bounds import bound_ratio
from core.multisource.gaussians import (
    Setting,
    draw_counts,
    expected,
    fit,
    limit_constant,
    risk,
    simulate,
)
from core.train.seeds import generator

SETTINGS = [
    Setting(1, 500),
    Setting(5, 500),
    Setting(5, 100, d1=0),
    Setting(4, 60, d=3, d1=2),
    Setting(3, 400, d=1, d1=1),
    Setting(3, 300, weights=(0.7, 0.2, 0.1)),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=range(len(SETTINGS)))
def test_drawn_errors_have_the_expectation_of_the_integral(setting):
    errors = simulate(setting, 40_000, generator(1))
    for drawn, wanted in zip(errors, expected(setting), strict=True):
        R = risk(drawn, setting)
        assert abs(R.mean() - wanted) < 4 * R.std() / math.sqrt(len(R))


def test_errors_of_means_are_those_of_data():
    """Means of drawn samples have the errors that `simulate` draws outright."""
    setting, reps = Setting(3, 90, d=4, d1=2), 1500
    rng = generator(2)
    phi = rng.standard_normal((3, 4))
    phi[:, 2:] = phi[0, 2:]
    n = draw_counts(setting, reps, rng)
    y = np.stack([np.repeat(range(3), n_k) for n_k in n])
    x = torch.from_numpy(phi[y] + rng.standard_normal((reps, 90, 4)))
    found = fit(x, torch.from_numpy(y), K=3, d1=2)
    outright = simulate(setting, reps, rng)
    for hat, drawn in zip(found, outright, strict=True):
        distance = (hat - torch.from_numpy(phi)).norm(dim=-1)
        tv = torch.erf(distance / (2 * math.sqrt(2)))
        same: Any = stats.ks_2samp(tv.flatten(), drawn.flatten())
        assert same.pvalue > 1e-3


def test_a_fit_is_the_mean_of_each_source(rng):
    x = torch.from_numpy(rng.standard_normal((2, 30, 3)))
    y = torch.from_numpy(rng.permutation(np.repeat(range(3), 10)))[None].expand(2, -1)
    found = fit(x, y, K=3, d1=1)
    for k in range(3):
        alone = x[:, y[0] == k].mean(1)
        torch.testing.assert_close(found.single[:, k], alone, rtol=0, atol=1e-14)
        torch.testing.assert_close(found.multi[:, k, :1], alone[:, :1], rtol=0, atol=1e-14)
        torch.testing.assert_close(found.multi[:, k, 1:], x.mean(1)[:, 1:], rtol=0, atol=1e-14)


def test_squared_errors_are_the_exponents_of_the_brackets():
    """E |delta|^2 = K d / n and ((K - 1) d1 + d) / n, where all n_k = n / K."""
    errors = simulate(Setting(4, 4000, d=6, d1=2), 3000, generator(3))
    single, multi = ((2 * math.sqrt(2) * torch.erfinv(e)).square().mean() for e in errors)
    # chi squares of 6 coordinates, 12,000 of them: 0.5 %; n_k varies: E n / n_k = 4 (1 + 3 / 4000)
    assert single == pytest.approx(4 * 6 / 4000, rel=0.02)
    assert multi == pytest.approx((3 * 2 + 6) / 4000, rel=0.03)


@pytest.mark.parametrize("d", [1, 2, 10, 200])
def test_the_constant_of_the_root_law(d):
    """Where all is shared, one mean in d coordinates from n samples."""
    n = 10**6
    found = expected(Setting(1, n, d=d, d1=0)).single * math.sqrt(n / d)
    assert found == pytest.approx(limit_constant(d), rel=1e-4)
    mean_length: Any = stats.chi.mean(d)
    assert limit_constant(d) == pytest.approx(mean_length / math.sqrt(2 * math.pi * d), rel=1e-12)
    assert limit_constant(1) == pytest.approx(1 / math.pi, rel=1e-12)
    assert limit_constant(10**6) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-6)


def test_the_ratio_is_near_that_of_the_bounds_and_never_above():
    for setting in (Setting(5, 500), Setting(10, 5000, d1=2), Setting(3, 10**4, d=50, d1=25)):
        single, multi = expected(setting)
        ratio, wanted = multi / single, bound_ratio(setting.K, setting.beta_sim)
        assert 0.95 * wanted < ratio < 1.005 * wanted


def test_sharing_what_differs_costs_as_much_as_it_gains_at_one_over_n_k():
    """Squared errors: 1 / (K n_k) + tau^2 (1 - 1/K) = 1 / n_k at tau^2 n_k = 1, for equal n_k."""
    ratio = []
    for scaled in (0.5, 1.0, 2.0):
        setting = Setting(5, 5000, tau=math.sqrt(scaled / 1000))
        single, multi = (risk(e, setting) for e in simulate(setting, 4000, generator(4)))
        error = (multi - single).std() / single.mean() / math.sqrt(4000)
        ratio.append((float(multi.mean() / single.mean()), float(error)))
    assert ratio[0][0] < 1 - 4 * ratio[0][1]
    assert abs(ratio[1][0] - 1) < 4 * ratio[1][1] + 0.005  # n_k varies by 3 %
    assert ratio[2][0] > 1 + 4 * ratio[2][1]


def test_the_rare_source_gains_most():
    setting = Setting(5, 4000, weights=(0.6, 0.2, 0.1, 0.05, 0.05))
    single, multi = simulate(setting, 2000, generator(5))
    found = (multi.mean(0) / single.mean(0)).numpy()
    predicted = np.sqrt((5 + 5 * setting.p_Y) / 10)
    assert found == pytest.approx(predicted, rel=0.03)
    assert (np.diff(found[:4]) < 0).all()


def test_no_replication_has_an_empty_source():
    assert (draw_counts(Setting(5, 8), 500, generator(6)) > 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Setting(0, 10), "K >= 1"),
        (lambda: Setting(5, 4), "a sample of each source, got n = 4 for K = 5"),
        (lambda: Setting(2, 10, d=3, d1=4), "d1 <= d"),
        (lambda: Setting(2, 10, weights=(0.6, 0.6)), "a sum of 1.2"),
        (lambda: expected(Setting(2, 10, tau=0.1)), "want tau = 0"),
        (lambda: fit(torch.zeros(1, 4, 2), torch.tensor([[0, 0, 2, 2]]), K=3, d1=1), "data: 1;"),
        (lambda: fit(torch.zeros(1, 2, 2), torch.tensor([[0, 3]]), K=3, d1=1), "labels in 0..2"),
        (lambda: fit(torch.zeros(4, 2), torch.zeros(4).long(), K=1, d1=1), r"x \[R, n, d\]"),
    ],
)
def test_what_cannot_be_estimated_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
