import math

import pytest
from scipy import stats

from core.multisource.crossover import simulate_advice
from core.multisource.gaussians import Setting, risk, simulate
from core.train.seeds import generator

REPS = 4000


def at(scaled, K=5, n_k=100, **change):
    return Setting(K, K * n_k, tau=math.sqrt(scaled / n_k), **change)


@pytest.mark.parametrize("scaled", [0.0, 1.0, 4.0])
def test_means_alone_and_averaged_err_as_in_the_other_study(scaled):
    setting = at(scaled)
    here = simulate_advice(setting, REPS, generator(1))
    there = simulate(setting, REPS, generator(2))
    for one, other in zip(here[:2], there, strict=True):
        other = risk(other, setting).numpy()
        error = math.hypot(one.std(), other.std()) / math.sqrt(REPS)
        assert abs(one.mean() - other.mean()) < 4 * error


@pytest.mark.parametrize("scaled", [0.0, 0.25, 1.0, 2.25, 4.0, 25.0])
def test_the_safe_estimate_never_errs_more_than_means_alone(scaled):
    for K in (2, 3, 5):
        found = simulate_advice(at(scaled, K=K), REPS, generator(3, K))
        gain = found.single - found.partial
        assert gain.mean() > -2 * gain.std() / math.sqrt(REPS)


def test_at_the_crossover_the_adviser_is_undecided():
    found = simulate_advice(at(1.0), REPS, generator(4))
    # n_k varies by a tenth: of (1 + n_k / 100) chi square the probability changes little
    exact = stats.chi2.cdf(4, 4)
    assert found.pooled.mean() == pytest.approx(exact, abs=0.01)
    assert found.multi.mean() == pytest.approx(found.single.mean(), rel=0.02)


def test_far_from_it_the_adviser_is_right():
    near, far = (simulate_advice(at(s), REPS, generator(5)) for s in (0.0, 25.0))
    assert near.pooled.mean() > 0.9
    assert near.chosen.mean() < near.single.mean()
    assert far.pooled.mean() < 0.02
    assert far.chosen.mean() == pytest.approx(far.single.mean(), rel=0.02)
    assert far.multi.mean() > 2 * far.single.mean()


@pytest.mark.parametrize(
    ("setting", "message"),
    [(Setting(1, 50), "K >= 2.*of one both are the same"), (Setting(3, 50, d1=10), "d1 < d")],
)
def test_nothing_to_compare_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        simulate_advice(setting, 10, generator(6))
