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


def test_systematic_counts_lie_between_the_two_ends(tables):
    for n in (2, 4):
        ends = []
        for seed in range(800):
            p = pilot(seed, tables).predict(Design(n, counts="systematic"))
            ends.append([p.least.value, p.variance.value])
        low, high = np.mean(ends, axis=0)
        pw, pl, rw, rl = tables
        true = BETA**2 * np.sum(
            [exact.systematic_variance(f, n).mean() for f in (pw - rw, pl - rl)]
        )
        assert low * 0.95 < true < high * 1.05


def test_the_bias_is_below_its_bound(tables):
    for seed in range(20):
        p = pilot(seed, tables, 6, 4).predict(Design(4))
        assert p.bias <= p.bias_bound


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
    exact_ratio = sum(exact.iid_variance(f, 1, q).mean() for f in margins) / sum(
        exact.variance(f).mean() for f in margins
    )
    assert ratio == pytest.approx(exact_ratio, rel=0.05)


def test_what_tells_nothing_is_refused(tables):
    with pytest.raises(ValueError, match="two counts and two masks"):
        run_pilot(POLICY, REFERENCE, PAIRS, CHUNKS, beta=1.0, n_t=4, n_y=1)
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
