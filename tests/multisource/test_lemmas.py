import math

import pytest
import torch

from core.multisource.lemmas import bracket_gap, try_lemmas


@pytest.mark.parametrize("sizes", [[3, 3], [4, 4, 4], [2, 5, 5, 3], [6, 4, 1]])
def test_no_network_exceeds_what_the_lemmas_allow(rng, sizes):
    shares = try_lemmas(sizes, rng, draws=20)
    assert 0 < shares.parameters <= 1 + 1e-9
    assert 0 < shares.inputs <= 1 + 1e-9


def test_the_extreme_network_uses_all_of_the_slope(rng):
    # of one width throughout, every entry alike, every unit active
    assert try_lemmas([4, 4, 4], rng, draws=1).inputs == pytest.approx(1, rel=1e-6)


def test_a_bracket_stands_over_the_other_law_and_has_the_gap_of_its_mass(rng):
    D, M = 4, 3
    a = torch.from_numpy(rng.standard_normal((D, M)))
    b = a + torch.from_numpy(rng.uniform(-0.1, 0.1, size=(D, M)))
    gap, margin = bracket_gap(a, b)
    eps = float((a - b).abs().max())
    assert gap == pytest.approx(math.exp(2 * D * eps) - 1)
    assert margin >= 0
    # the worst case: one logit up and all others down, the other law's outcome rare
    up = torch.full((1, M), -10.0).double()
    up[0, 0] = 10
    other = up + torch.tensor([[-0.1, 0.1, 0.1]])
    gap, margin = bracket_gap(up, other)
    assert margin == pytest.approx(0, abs=1e-6)
