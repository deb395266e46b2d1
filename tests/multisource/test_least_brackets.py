from itertools import combinations

import numpy as np
import pytest

from core.multisource.least_brackets import least_brackets, members


def by_partitions(p, eps):
    """The least number of groups, by trying all numbers of brackets over all sets of members."""
    m = len(p)
    fits = []
    for size in range(1, m + 1):
        for chosen in combinations(range(m), size):
            top = p[list(chosen)].max(0)
            if all(abs(top - p[i]).sum(-1).max() <= eps + 1e-12 for i in chosen):
                fits.append(frozenset(chosen))
    for count in range(1, m + 1):
        for chosen in combinations(fits, count):
            if len(frozenset().union(*chosen)) == m:
                return count
    raise AssertionError


@pytest.mark.parametrize("eps", [0.05, 0.2, 0.4, 0.8, 2.0])
def test_the_number_is_that_of_trying_all(rng, eps):
    p = rng.dirichlet(np.ones(3), size=(5, 2))
    assert least_brackets(p, eps) == by_partitions(p, eps)


def test_the_number_runs_from_one_bracket_to_one_a_member(rng):
    p = rng.dirichlet(np.ones(3), size=(6, 2))
    assert least_brackets(p, 1e-6) == 6
    assert least_brackets(p, 2.0) == 1  # a maximum of probabilities has at most mass 3


def test_a_class_that_shares_needs_no_more_than_one_that_does_not():
    phi, psi = np.array([0.3, 0.5]), np.array([0.4, 0.6])
    multi, single = (members(phi, psi, 2, multi=multi) for multi in (True, False))
    assert (len(multi), len(single)) == (8, 16)
    assert {p.tobytes() for p in multi} <= {p.tobytes() for p in single}
    assert np.allclose(single.sum(2), 1)
    for eps in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0):
        assert least_brackets(multi, eps) <= least_brackets(single, eps)


def test_one_member_by_hand():
    p = members(np.array([0.3]), np.array([0.4]), 1, multi=True)
    np.testing.assert_allclose(p, [[[0.42, 0.28, 0.18, 0.12]]])


@pytest.mark.parametrize(
    ("p", "eps", "message"),
    [
        (np.ones((2, 2)) / 2, 0.1, r"want p \[m, K, N\]"),
        (np.ones((17, 1, 2)) / 2, 0.1, "1 to 16 members"),
        (np.ones((2, 1, 2)) / 2, 0.0, "want eps > 0"),
    ],
)
def test_what_is_no_class_is_refused(p, eps, message):
    with pytest.raises(ValueError, match=message):
        least_brackets(p, eps)
