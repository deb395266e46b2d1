import numpy as np
import pytest
import torch
from worlds import MASK, TINY, pair, tiny_model

from core.vrpo import exact
from core.vrpo.budget import Pilot, advise, run_pilot
from core.vrpo.cost import Cost
from core.vrpo.draws import Design, draw
from core.vrpo.preferences import Preference
from core.vrpo.scoring import Chunks

BETA, L = 0.5, 4
CHUNKS = Chunks(MASK, None, torch.device("cpu"))
POLICY, REFERENCE = tiny_model(1), tiny_model(2)


def preferences(B):
    found = []
    for example in range(B):
        x, (w, l) = pair(L, seed=example)
        found.append(Preference(x, w, l, example))
    return found


PAIRS = preferences(3)


@pytest.fixture(scope="module")
def tables():
    """Terms at every mask, `[B, M]` each, in the order of a pilot."""
    sides = [[p.prompt for p in PAIRS], [p.chosen for p in PAIRS], [p.rejected for p in PAIRS]]
    return [
        exact.terms(exact.masked_sums(model, sides[0], responses))
        for model in (POLICY, REFERENCE)
        for responses in sides[1:]
    ]


def true_variance(tables, design):
    """V[s_hat] of each pair, from the enumerated covariances."""
    pw, pl, rw, rl = tables
    if design.shared and design.across_pair:
        parts = [pw - rw - pl + rl]
    elif design.shared:
        parts = [pw - rw, pl - rl]
    elif design.across_pair:
        parts = [pw - pl, rw - rl]
    else:
        parts = [pw, pl, rw, rl]
    return BETA**2 * sum(exact.split(f).estimate(design.n_t, design.n_y) for f in parts)


def pilot(seed, tables, n_t=3, n_y=2):
    """A pilot whose terms are looked up, in place of forward passes."""
    design = Design(n_t, n_y, across_pair=True)
    terms, counts = [], []
    for b in range(len(PAIRS)):
        masks = draw(design, L, seed, b).masks
        at = (masks.long() << torch.arange(L - 1, -1, -1)).sum(1).numpy() - 1
        terms.append([table[b, at].reshape(n_t, n_y) for table in tables])
        counts.append([masks.double().mean(1).numpy().reshape(n_t, n_y)[:, 0]] * 2)
    return Pilot(np.array(terms), np.array(counts), BETA)


DESIGNS = [
    Design(n, n_y, shared=shared, across_pair=across)
    for n, n_y in ((1, 1), (4, 2))
    for shared in (True, False)
    for across in (True, False)
]


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_the_predicted_variance_is_unbiased(design, tables):
    runs = [np.add(*pilot(seed, tables).score_variance(design)) for seed in range(1500)]
    error = np.std(runs, axis=0, ddof=1) / np.sqrt(len(runs))
    assert np.all(np.abs(np.mean(runs, axis=0) - true_variance(tables, design)) < 4.5 * error)


def test_a_pilot_of_two_models_holds_their_terms():
    found = run_pilot(POLICY, REFERENCE, PAIRS, CHUNKS, beta=BETA, n_t=3, n_y=2, seed=5)
    looked_up = [
        exact.terms(exact.masked_sums(m, [p.prompt], [y]))[0]
        for p in PAIRS[:1]
        for m in (POLICY, REFERENCE)
        for y in (p.chosen, p.rejected)
    ]
    for row, table in zip(found.terms[0].reshape(4, -1), looked_up, strict=True):
        assert np.isin(row.round(9), table.round(9)).all()
    assert found.terms.shape == (3, 4, 3, 2)


@pytest.mark.parametrize(("n", "sets"), [(2, 1), (4, 1), (4, 2)])
def test_systematic_counts_are_between_what_masks_contribute_and_one_count_a_set(n, sets, tables):
    """In a large pilot: 12,000 counts a pair; five hundredths are several of its errors."""
    found = pilot(3, tables, 4000, 2).predict(Design(n, counts="systematic", sets=sets))
    margins = tables[0] - tables[2], tables[1] - tables[3]
    true = sum(exact.systematic_variance(f, n // sets).mean() for f in margins) / sets
    assert found.least.value * 0.95 < BETA**2 * true < found.most.value * 1.05
    splits = [exact.split(f) for f in margins]
    V_t, V_y = (BETA**2 * sum(np.mean(s[i]) for s in splits) for i in (0, 1))
    assert found.least.value == pytest.approx(V_y / n, rel=0.05)
    assert found.variance.value == pytest.approx((V_t + V_y) / n, rel=0.05)
    assert found.most.value == pytest.approx(V_t / sets + V_y / n, rel=0.05)
    assert found.bias_bound == pytest.approx(found.most.value / 8)


def test_counts_that_are_steps_of_one_are_independent(tables):
    p = pilot(0, tables).predict(Design(4, counts="systematic", sets=4))
    assert p.least == p.variance == p.most


def alternating():
    """A term of 3 at even and -3 at odd counts of 8, and a pilot of it; beta 1, the rest zero."""
    l = exact.counts(8)
    masks = [draw(Design(200, 2), 8, b).masks.sum(1).numpy() for b in range(2)]
    terms = np.zeros((2, 4, 200, 2))
    terms[:, 0] = np.reshape([np.where(m % 2, -3.0, 3.0) for m in masks], (2, 200, 2))
    counts = np.reshape(masks, (2, 200, 2))[:, None, :, 0].repeat(2, axis=1) / 8
    return np.where(l % 2, -3.0, 3.0), Pilot(terms, counts, 1.0)


def test_systematic_counts_can_be_worse_and_the_advice_does_not_deny_it():
    """Steps of two in the count never meet the other parity: 9 for a set, 9 / 2 for two."""
    f, found = alternating()
    advice = advise(found, n=8)
    design = advice.chosen.design
    assert (design.counts, design.sets) == ("systematic", 2)
    true = float(exact.systematic_variance(f, 4)) / 2
    assert true == pytest.approx(4.5)
    assert true > 3 * advice.chosen.variance.value  # of independent counts
    assert advice.chosen.most.value == pytest.approx(true, rel=0.05)
    assert advice.chosen.bias_bound == pytest.approx(true / 8, rel=0.05)
    assert "not guaranteed" in " ".join(str(advice).split())
    assert " to 1.1" not in str(advice)


def test_a_bound_on_the_bias_gets_independent_counts():
    advice = advise(alternating()[1], bias=9 / 8 / 4.5)
    assert advice.chosen.design == Design(5, shared=advice.chosen.design.shared)
    assert advice.chosen.most == advice.chosen.variance
    assert "not guaranteed" in " ".join(str(advice).split())


def test_the_bias_is_below_its_bound(tables):
    for seed in range(20):
        p = pilot(seed, tables, 6, 4).predict(Design(4))
        assert p.bias <= p.bias_bound


def test_the_bias_is_that_of_the_loss_where_it_is_small(tables):
    """By enumeration of both masks, n = 1; beta is so small that second order is what counts."""
    big, beta = pilot(3, tables, 4000, 2), 0.002
    found = Pilot(big.terms, big.counts, beta).predict(Design(1)).bias
    w, l = beta * (tables[0] - tables[2]), beta * (tables[1] - tables[3])
    p = exact.probabilities(L)
    losses = np.logaddexp(0, l[:, None, :] - w[:, :, None])
    true = (losses @ p) @ p - np.logaddexp(0, exact.mean(l) - exact.mean(w))
    assert found == pytest.approx(true.mean(), rel=0.1)  # the pilot 3 %, third order as much


def test_correlation_and_split_are_the_enumerated_ones(tables):
    big = pilot(3, tables, 4000, 2)
    sides = ((tables[0], tables[2]), (tables[1], tables[3]))
    both, P, R = (
        sum(np.mean(exact.covariance(s[i], s[j])) for s in sides)
        for i, j in ((0, 1), (0, 0), (1, 1))
    )
    assert big.correlation.value == pytest.approx(both / np.sqrt(P * R), abs=0.01)
    splits = [exact.split(p - r) for p, r in sides]
    for i in (0, 1):
        true = BETA**2 * sum(np.mean(s[i]) for s in splits)
        assert big.split[i].value == pytest.approx(true, rel=0.05)


def test_the_correlations_error_is_how_far_it_is_off():
    """Pairs of correlation 0.8, 400 pilots: the spread of the values is the mean error."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        both, own = rng.standard_normal((2, 40, 4, 3, 2))
        both[:, 2:] = both[:, :2]
        terms = 2 * both + own
        found.append(Pilot(terms, np.full((40, 2, 3), 0.5), 1.0).correlation)
    values, errors = np.transpose(found)
    assert abs(values.mean() - 0.8) < 4 * values.std() / 20 + 0.005  # a ratio: bias of 1 / 40
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)  # relative sd 1 / sqrt(800)
    none = Pilot(np.zeros((2, 4, 2, 2)), np.full((2, 2, 2), 0.5), 1.0).correlation
    assert np.isnan(none).all()


def test_across_the_pair_needs_more_than_noise():
    """Equal terms on both sides: sharing cancels all. Independent ones: the guard refuses."""
    rng = np.random.default_rng(0)
    margin, other = rng.standard_normal((2, 16, 1, 4, 2)) * 3
    zero = np.zeros_like(margin)
    counts = rng.random((16, 2, 4))
    same = Pilot(np.concatenate([margin, margin, zero, zero], axis=1), counts, 1.0)
    assert advise(same, n=4).chosen.design.across_pair
    apart = Pilot(np.concatenate([margin, other, zero, zero], axis=1), counts, 1.0)
    assert not advise(apart, n=4).chosen.design.across_pair
    against = Pilot(np.concatenate([margin, -margin, zero, zero], axis=1), counts, 1.0)
    assert not advise(against, n=4).chosen.design.across_pair
    assert against.across.value < 0
    # nine pairs for and seven against: above zero by half a standard error
    mixed = margin[:1] * np.where(np.arange(16) < 9, 1, -1)[:, None, None, None]
    terms = np.concatenate([margin[:1].repeat(16, 0), mixed, zero, zero], axis=1)
    unsure = Pilot(terms, counts, 1.0)
    assert 0 < unsure.across.value < unsure.across.error
    assert not advise(unsure, n=4).chosen.design.across_pair


def test_a_bound_on_the_bias_buys_the_draws_it_needs(tables):
    p = pilot(1, tables, 8, 4)
    one = p.predict(advise(p, n=1).chosen.design).variance.value
    advice = advise(p, bias=one / 8 / 5.5)
    assert advice.chosen.design.n == 6
    assert advice.chosen.bias_bound <= one / 8 / 5.5
    assert "n = 6" in str(advice)


def test_the_advice_names_operations_and_bytes(tables):
    cost = Cost(TINY, 2, L, Design())
    advice = advise(pilot(1, tables, 8, 4), n=4, cost=cost)
    for p in (advice.chosen, *advice.others):
        assert p.cost is not None
        assert p.cost.pair == Cost(TINY, 2, L, p.design).pair
        assert f"{p.cost.pair:.2g}" in str(advice)
    assert "GB" in str(advice)
    assert max(map(len, str(advice).splitlines())) <= 88  # a page shows 88 columns
    assert "GB" not in str(advise(pilot(1, tables, 8, 4), n=4))


def test_the_proposal_of_a_large_pilot_is_the_best_one(tables):
    big = pilot(3, tables, n_t=4000, n_y=2)
    margins = [tables[0] - tables[2], tables[1] - tables[3]]
    q, ratio = big.importance(bins=L)
    np.testing.assert_allclose(q, exact.best_proposal(*margins), rtol=0.05)
    # each half holds all pairs: what a proposal is fitted to is not what judges it, but its like
    twice = Pilot(big.terms.repeat(2, axis=0), big.counts.repeat(2, axis=0), BETA)
    exact_ratio = sum(exact.iid_variance(f, 1, q).mean() for f in margins) / sum(
        exact.variance(f).mean() for f in margins
    )
    assert twice.importance(bins=L)[1].value == pytest.approx(exact_ratio, rel=0.05)
    # and alone: pair 1 by the proposal of pairs 0 and 2, these by that of pair 1
    apart = 0.0
    for mine, others in (([0, 2], [1]), ([1], [0, 2])):
        other = exact.best_proposal(*(f[others] for f in margins))
        apart += sum(exact.iid_variance(f[mine], 1, other).sum() for f in margins)
    apart /= sum(exact.variance(f).sum() for f in margins)
    assert ratio.value == pytest.approx(apart, rel=0.05)


def test_importance_is_not_flattered_by_the_pilot_it_is_fitted_to():
    """Margins that no count tells apart: no proposal helps, and a fit to noise cannot seem to."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        terms = np.zeros((12, 4, 4, 2))
        terms[:, :2] = rng.standard_normal((12, 2, 4, 2)) + rng.standard_normal((12, 2, 1, 1))
        found.append(Pilot(terms, 1 - rng.random((12, 2, 4)), 1.0).importance()[1])
    values, errors = np.transpose(found)
    assert values.mean() > 1  # a proposal that is not uniform is worse
    assert errors.mean() == pytest.approx(values.std(), rel=0.5)  # takes the proposals as given


def test_the_squared_mean_is_taken_off_without_its_noise():
    """Margins of 1 at odd and 3 at even counts of 2: the best proposal leaves nothing, n = 1."""
    rng = np.random.default_rng(1)
    even = rng.random((400, 1, 2)).repeat(2, axis=1) < 0.5  # two counts a pair
    terms = np.zeros((400, 4, 2, 2))
    terms[:, :2] = np.where(even, 3.0, 1.0)[..., None]
    _, ratio = Pilot(terms, np.where(even, 1.0, 0.5), 1.0).importance(bins=2)
    assert abs(ratio.value) < 4 * ratio.error  # at q = (1, 3) / 4 every weighted margin is 2
    assert ratio.error < 0.1


def test_models_that_agree_are_told_that_nothing_can_be_told(tables):
    p = pilot(0, [*tables[:2], *tables[:2]])
    assert p.agree
    assert p.importance(4) == ((0.25,) * 4, (1.0, 0.0))
    text = " ".join(str(advise(p, n=4)).split())
    assert "says nothing of later" in text
    assert "nan" not in text
    other = pilot(0, tables)
    assert not other.agree
    assert "says nothing of later" not in str(advise(other, n=4))


def test_what_tells_nothing_is_refused(tables):
    with pytest.raises(ValueError, match="two counts and two masks"):
        run_pilot(POLICY, REFERENCE, PAIRS, CHUNKS, beta=1.0, n_t=4, n_y=1)
    for few in (PAIRS[:1], []):
        with pytest.raises(ValueError, match="two pairs"):
            run_pilot(POLICY, REFERENCE, few, CHUNKS, beta=1.0)
    for beta in (0.0, -0.2, np.nan, np.inf):
        with pytest.raises(ValueError, match="beta > 0"):
            run_pilot(POLICY, REFERENCE, PAIRS, CHUNKS, beta=beta)
    broken = pilot(0, tables)
    broken.terms[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"pair\(s\) \[1\]"):
        Pilot(broken.terms, broken.counts, 1.0)
    with pytest.raises(ValueError, match="both or neither"):
        advise(pilot(0, tables))
    with pytest.raises(ValueError, match="positive budget"):
        advise(pilot(0, tables), n=0)
    with pytest.raises(ValueError, match="uniform counts"):
        pilot(0, tables).predict(Design(proposal=(1.0, 2.0)))
    assert TINY.mask_id == MASK
