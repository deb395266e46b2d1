import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from core.multisource.pooling import advise, effective_dim, gain_of_pooling, kept_part
from core.train.seeds import generator


def a_sample(rng, n_k, means, sd=1.0):
    """Normal samples: `means` is [K, d]."""
    parts = [rng.normal(m, sd, size=(n, len(m))) for n, m in zip(n_k, means, strict=True)]
    return np.concatenate(parts), np.repeat(range(len(n_k)), n_k)


def test_spread_and_chance_are_the_f_test_of_scipy(rng):
    """F = S / (K - 1) for equal n_k, where v is the pooled variance."""
    x, source = a_sample(rng, [20] * 4, rng.standard_normal((4, 3)))
    found = advise(x, source)
    for j in range(3):
        F = stats.f_oneway(*(x[source == k, j] for k in range(4))).statistic
        assert found.spread[j] / 3 == pytest.approx(F, rel=1e-12)
    assert found.chance.mean() == pytest.approx(3, rel=0.2)


def test_chance_is_the_expectation_of_the_spread_where_means_are_equal():
    """Also where variances differ, which Akaike's K - 1 does not know."""
    rng, n_k, sd = generator(1), [400, 150, 50], [1.0, 1.0, 3.0]
    source = np.repeat(range(3), n_k)
    found = [advise(rng.normal(0, np.take(sd, source)), source) for _ in range(1500)]
    S, T = (np.array([getattr(one, name)[0] for one in found]) for name in ("spread", "chance"))
    # (600 - n_k) / 600 of 1, 1 and 9, over a mean of 5/3
    assert T.mean() == pytest.approx((200 / 600 + 450 / 600 + 9 * 550 / 600) / (5 / 3), rel=0.02)
    assert abs(S.mean() - T.mean()) < 4 * S.std() / math.sqrt(1500) + 0.02 * T.mean()
    assert T.mean() > 2.5 * 2  # and far from K - 1


@pytest.mark.parametrize("scaled", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_the_choice_is_as_likely_as_chi_square_says(scaled):
    """S is (1 + tau^2 n_k) chi square: P(pool) is known, and near a half where both do alike."""
    rng, K, n_k, runs = generator(2), 5, 200, 8000  # each column is a run
    means = math.sqrt(scaled / n_k) * rng.standard_normal((K, runs))
    pooled = advise(*a_sample(rng, [n_k] * K, means)).beta_sim
    exact = stats.chi2.cdf(2 * (K - 1) / (1 + scaled), K - 1)
    # of 1,000 samples the variance is known but for 4.5 %
    assert abs(pooled - exact) < 4 * math.sqrt(exact * (1 - exact) / runs) + 0.005
    assert scaled != 1 or 0.5 < exact < 0.6


@pytest.mark.parametrize(("K", "d"), [(5, 1), (3, 3), (2, 4)])
@pytest.mark.parametrize("scaled", [0.0, 1.0, 9.0])
def test_the_safe_estimate_errs_less_than_means_alone(K, d, scaled):
    """Squared error, weighted by shares: for sources of any size, wherever their means are."""
    rng, runs = generator(3, K), 800
    n_k = np.array([60, 30, 10, 8, 5])[:K]
    gain = []
    for _ in range(runs):
        means = np.sqrt(scaled / n_k[:, None]) * rng.standard_normal((K, d))
        found = advise(*a_sample(rng, n_k, means))
        single, partial = (
            (n_k[:, None] * (hat - means) ** 2).sum() for hat in (found.single, found.partial)
        )
        gain.append(single - partial)
    error = np.std(gain) / math.sqrt(runs)
    assert np.mean(gain) > (4 * error if scaled == 0 else -2 * error)


def test_two_sources_of_one_column_are_left_alone():
    """Nothing beats two means in squared error everywhere: James and Stein need three."""
    assert (kept_part(np.array([0.5]), np.array([1.0]), K=2, df=100) == 1).all()
    assert (kept_part(np.array([0.5, 9.0]), np.ones(2) * 2, K=3, df=100) < 1).all()


def test_shared_and_own_columns_are_told_apart():
    """The paper's Gaussians: five coordinates that differ by whole sds, five that do not."""
    rng = generator(4)
    means = np.zeros((5, 10))
    means[:, :5] = np.arange(5)[:, None]
    found = advise(*a_sample(rng, [100] * 5, means))
    assert found.verdict == "pool in part"
    assert not found.share[:5].any()
    assert found.share[5:].sum() >= 4  # each by chance is refused with probability 0.09
    assert (found.kept[:5] > 0.95).all()
    assert found.errors["chosen"] < found.errors["single"] < found.errors["pooled"]
    # what it expects is what the law says: sqrt(dim / (2 pi n))
    assert found.errors["single"] == pytest.approx(math.sqrt(50 / (2 * math.pi * 500)), rel=0.05)
    assert found.effective_similarity == pytest.approx(found.beta_sim, abs=0.25)


def test_estimates_are_means_and_what_lies_between_them(rng):
    x, source = a_sample(rng, [30, 50, 20, 10], rng.standard_normal((4, 2)) * [0.0, 3.0])
    found = advise(x, source)
    assert found.pooled == pytest.approx(x.mean(0))
    for k in range(4):
        assert found.single[k] == pytest.approx(x[source == k].mean(0))
    for j in range(2):
        wanted = found.pooled[j] if found.share[j] else found.single[:, j]
        assert found.chosen[:, j] == pytest.approx(np.broadcast_to(wanted, 4))
        low, high = np.minimum(found.single, found.pooled), np.maximum(found.single, found.pooled)
        assert ((found.partial >= low - 1e-12) & (found.partial <= high + 1e-12)).all()


def test_units_and_order_of_sources_do_not_matter(rng):
    x, source = a_sample(rng, [30, 50, 20], rng.standard_normal((3, 2)))
    one = advise(x, source)
    order = rng.permutation(100)
    other = advise(1000 * x[order] + 5, np.array(["c", "a", "b"])[source][order])
    assert other.sources == ["a", "b", "c"]
    assert one.spread == pytest.approx(other.spread)
    assert one.kept == pytest.approx(other.kept)
    assert json.loads(json.dumps(other.as_dict()))["sources"] == {"a": 50, "b": 20, "c": 30}


def test_sources_can_be_named(rng):
    x, source = a_sample(rng, [30, 50, 20], rng.standard_normal((3, 2)))
    found = advise(x, source, sources=[2, 0], columns=["u", "v"])
    assert (found.sources, found.columns, found.n_k.tolist()) == (["2", "0"], ["u", "v"], [20, 30])


def test_the_criterion_of_columns_is_that_of_likelihoods(rng):
    """With known variance one, twice the likelihood ratio is S, and K - 1 parameters are saved."""
    x, source = a_sample(rng, [25] * 4, 0.3 * rng.standard_normal((4, 1)))
    single = sum(stats.norm.logpdf(x[source == k], x[source == k].mean()).sum() for k in range(4))
    multi = stats.norm.logpdf(x, x.mean()).sum()
    S = sum(25 * (x[source == k].mean() - x.mean()) ** 2 for k in range(4))
    assert gain_of_pooling(single, multi, 4, 1) == pytest.approx(2 * 3 - S)


def test_takeuchis_count_is_the_number_of_parameters_where_the_model_holds(rng):
    z = rng.standard_normal((200_000, 3))
    assert effective_dim(z, np.eye(3)) == pytest.approx(3, rel=0.02)
    # a mean whose variance is four times what the model says
    assert effective_dim(2 * z[:, :1], np.eye(1)) == pytest.approx(4, rel=0.02)


BAD = np.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    ("x", "source", "options", "message"),
    [
        (BAD, [0, 0, 0], {}, "two sources or more to compare, got one source, 0"),
        (BAD, [0, 1, 1], {}, r"two samples of each source, .* got 0 \(1\)"),
        (BAD, [0, 1], {}, r"\[n, d\] and the source of each, \[n\], got \[3, 2\] and \[2\]"),
        (np.ones((4, 2)), [0, 0, 1, 1], {"columns": ["u", "v"]}, "constant ones: u, v"),
        (BAD * [[1], [np.nan], [1]], [0, 0, 1], {}, "finite samples, got nan in row 1, 0"),
        (BAD, list("aab"), {"sources": ["a", "z"]}, "no sample is of source z; there are a, b"),
        (BAD, list("aab"), {"columns": ["u"]}, "a name for each of 2 columns, got 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(x, source, options, message):
    with pytest.raises(ValueError, match=message):
        advise(x, source, **options)


def test_kept_parts_are_parts():
    for K, d in itertools.product([2, 3, 4, 9], [1, 2, 5]):
        kept = kept_part(np.linspace(0, 50, d), np.full(d, K - 1.0), K=K, df=30)
        assert ((kept >= 0) & (kept <= 1)).all()
