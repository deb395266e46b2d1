from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from core.vrpo.draws import Design, count_law, counts_at, draw, draw_pair


def sums(masks, values):
    """S(m) for token values that are simply given: here S is linear in the mask."""
    return masks.double() @ values


@pytest.mark.parametrize("counts", ["iid", "systematic"])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_every_mask_has_the_probability_of_the_count_form(length, counts):
    design = Design(n_t=6, n_y=2, counts=counts)
    runs = 2000
    masks = torch.cat([draw(design, length, 5, run).masks[:1] for run in range(runs)])
    for l in range(1, length + 1):
        for chosen in combinations(range(length), l):
            mask = torch.zeros(length, dtype=torch.bool)
            mask[list(chosen)] = True
            seen = int((masks == mask).all(1).sum())
            p = 1 / length / sum(1 for _ in combinations(range(length), l))
            # 255 masks at most: five standard deviations, and five more counts where p is tiny
            assert abs(seen - runs * p) < 5 * np.sqrt(runs * p) + 5


@pytest.mark.parametrize("n_t", [2, 3, 7, 16])
@pytest.mark.parametrize("length", [1, 5, 8, 24, 100])
def test_systematic_counts_are_uniform_for_every_length_and_number(length, n_t):
    """In exact arithmetic: row i is floor(L ((u + i / n) mod 1)) + 1 with u uniform."""
    for i in range(n_t):
        # the count changes where L (u + i / n) is whole: measure the pieces between
        cuts = {Fraction(0), Fraction(1)}
        cuts |= {(Fraction(k, length) - Fraction(i, n_t)) % 1 for k in range(length)}
        measure = dict.fromkeys(range(1, length + 1), Fraction(0))
        ordered = sorted(cuts)
        for low, high in pairwise(ordered):
            level = ((low + high) / 2 + Fraction(i, n_t)) % 1
            l = int(counts_at(np.array([float(level)]), length)[0])
            measure[l] += high - low
        assert set(measure.values()) == {Fraction(1, length)}


def test_systematic_counts_come_from_all_parts_of_the_range():
    l = draw(Design(n_t=8, counts="systematic"), 8, 1).masks.sum(1)
    assert sorted(l.tolist()) == list(range(1, 9))


@pytest.mark.parametrize(
    "design",
    [
        Design(n_t=4, n_y=2),
        Design(n_t=4, counts="systematic"),
        Design(n_t=4, counts="systematic", sets=2),
        Design(n_t=2, proposal=(4.0, 2.0, 1.0)),
        Design(n_t=4, counts="systematic", proposal=(4.0, 2.0, 1.0)),
        Design(n_t=2, form="time"),
    ],
    ids=str,
)
def test_the_estimate_is_unbiased(design):
    length = 5
    values = torch.tensor([1.0, -2.0, 3.0, 0.5, -0.25], dtype=torch.float64)
    # E over l, then over subsets: L / l times l / L of the sum
    truth = values.sum()
    runs = (draw(design, length, 9, run) for run in range(4000))
    found = torch.stack([(d.weights * sums(d.masks, values)).mean() for d in runs])
    assert abs(found.mean() - truth) < 4.5 * found.std() / np.sqrt(len(found))


def test_the_time_form_cut_at_eps_masks_at_times_above_it():
    found = draw(Design(n_t=4000, form="time", eps=0.5), 3, 2)
    times = 1 / found.weights
    assert 0.5 < times.min() < 0.51
    assert stats.kstest(times.numpy(), stats.uniform(0.5, 0.5).cdf).pvalue > 1e-3


def test_importance_draws_each_count_as_often_as_it_says():
    proposal, length, n = (5.0, 3.0, 1.0), 7, 20_000
    l = draw(Design(n_t=n, proposal=proposal), length, 3).masks.sum(1).numpy()
    expected = n * count_law(length, proposal)
    assert stats.chisquare(np.bincount(l, minlength=length + 1)[1:], expected).pvalue > 1e-3


def test_a_proposal_with_an_entry_a_count_is_that_law():
    q = np.array([4.0, 3.0, 2.0, 1.0]) / 10
    np.testing.assert_allclose(count_law(4, tuple(q)), q, rtol=1e-12)


def test_the_first_draws_do_not_depend_on_how_many_there_are():
    few, many = (draw(Design(n_t=n, n_y=2), 9, 4, 2) for n in (2, 5))
    assert torch.equal(few.masks, many.masks[:4])


def test_masks_at_one_count_mask_as_many():
    l = draw(Design(n_t=3, n_y=4), 50, 1).masks.sum(1).reshape(3, 4)
    assert (l == l[:, :1]).all()
    assert len(set(l[:, 0].tolist())) > 1


def test_shared_masks_are_the_same_and_others_are_not():
    shared = draw_pair(Design(), (6, 6), 1, 2)
    assert shared.policy is shared.reference
    apart = draw_pair(Design(shared=False), (6, 6), 1, 2)
    assert torch.equal(apart.policy[0].masks, shared.policy[0].masks)
    for side in range(2):
        assert not torch.equal(apart.policy[side].masks, apart.reference[side].masks)
    assert not torch.equal(shared.policy[0].masks, shared.policy[1].masks)


def test_across_the_pair_equal_lengths_see_equal_masks():
    (w, l), _ = draw_pair(Design(across_pair=True), (6, 6), 1, 2)
    assert torch.equal(w.masks, l.masks)


def test_across_the_pair_other_lengths_see_equal_relative_counts():
    (w, l), _ = draw_pair(Design(n_t=64, across_pair=True), (5, 20), 1, 2)
    gap = w.masks.sum(1) / 5 - l.masks.sum(1) / 20
    assert gap.min() > -1e-12
    assert gap.max() <= 1 / 5  # both are rounded up, to a fifth and to a twentieth


def test_independent_halves_are_those_that_are():
    assert Design(n_t=4).has_independent_halves
    assert not Design(n_t=3).has_independent_halves
    assert not Design(n_t=4, counts="systematic").has_independent_halves
    assert Design(n_t=4, counts="systematic", sets=2).has_independent_halves


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_t": 0}, "n_t >= 1"),
        ({"n_y": -1}, "n_y >= 1"),
        ({"n_t": 2.5}, "whole number"),
        ({"n_t": 8, "sets": 3}, "take 9"),
        ({"form": "t"}, "form 'count' or 'time'"),
        ({"counts": "antithetic"}, "'iid' or 'systematic'"),
        ({"eps": 0.1}, "0 in the count form"),
        ({"form": "time", "eps": 1.0}, "0 <= eps < 1"),
        ({"proposal": (1.0, 0.0)}, "biases the estimate"),
        ({"proposal": (1.0, float("nan"))}, "positive numbers"),
        ({"form": "time", "proposal": (1.0,)}, "count form"),
    ],
)
def test_a_budget_that_cannot_be_spent_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Design(**options)


def test_an_empty_response_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        draw(Design(), 0, 1)
