import numpy as np
import pytest
import torch
from worlds import MASK, brute_force, pair, terms_of_a_pair, tiny_model

from core.vrpo.draws import Design, draw_pair
from core.vrpo.exact import all_masks
from core.vrpo.pairs import pair_terms
from core.vrpo.preferences import Preference

BETA, L = 0.5, 3


def test_the_terms_are_those_of_the_models():
    x, (w, l) = pair(L)
    found = pair_terms(tiny_model(1), tiny_model(2), [Preference(x, w, l, 0)])
    for table, model, y in zip(
        found,
        (tiny_model(1), tiny_model(1), tiny_model(2), tiny_model(2)),
        (w, l, w, l),
        strict=True,
    ):
        expected = [L / int(m.sum()) * brute_force(model, x, y, m) for m in all_masks(L)]
        np.testing.assert_allclose(table[0], expected, rtol=1e-10, atol=1e-13)
    assert int(torch.cat([x, w, l]).max()) < MASK


@pytest.mark.parametrize(
    "design",
    [
        Design(2, 2),
        Design(3, shared=False),
        Design(3, across_pair=True),
        Design(2, shared=False, across_pair=True),
        Design(4, counts="systematic"),
        Design(4, counts="systematic", sets=2),
        Design(2, proposal=(3.0, 1.0)),
        Design(4, counts="systematic", across_pair=True, proposal=(3.0, 2.0, 1.0)),
    ],
    ids=str,
)
def test_the_variance_of_a_design_is_that_of_scores_drawn_from_it(design):
    terms = terms_of_a_pair(L)
    runs = 4000
    scores = terms.estimates(design, BETA, runs, 7)[:, 0]
    error = scores.std(ddof=1) / np.sqrt(runs)
    assert abs(scores.mean() - terms.score(BETA)[0]) < 4.5 * error
    # relative sd of a variance: sqrt((kurtosis - 1) / runs), kurtosis below 9: allow 4.5 of them
    expected = terms.score_variance(design, BETA)[0]
    assert scores.var(ddof=1) == pytest.approx(expected, rel=4.5 * np.sqrt(8 / runs))


def test_an_estimate_is_the_mean_of_its_weighted_sums():
    for run, design in enumerate((Design(3, 2), Design(4, counts="systematic", shared=False))):
        terms = terms_of_a_pair(L)
        assert terms.estimate(design, BETA, run)[0] == pytest.approx(by_hand(terms, design, run))


def by_hand(terms, design, run):
    drawn = draw_pair(design, (L, L), run, 0)
    w, l, rw, rl = (
        (d.weights.numpy() * table[0, place(d.masks)] * d.masks.sum(1).numpy() / L).mean()
        for d, table in zip((*drawn.policy, *drawn.reference), terms, strict=True)
    )
    return BETA * (w - l - rw + rl)


def place(masks):
    return (masks.long() << torch.arange(L - 1, -1, -1)).sum(1).numpy() - 1


def test_what_is_not_enumerated_is_refused():
    terms = terms_of_a_pair(L)
    with pytest.raises(ValueError, match="time form is infinite"):
        terms.score_variance(Design(form="time"), BETA)
    with pytest.raises(ValueError, match="n_y = 1"):
        terms.score_variance(Design(2, 2, counts="systematic"), BETA)
    with pytest.raises(ValueError, match="independent counts"):
        terms.loss_moments(Design(4, counts="systematic"), BETA)
    with pytest.raises(ValueError, match="one mask a count"):
        terms.loss_moments(Design(4, 2), BETA)
