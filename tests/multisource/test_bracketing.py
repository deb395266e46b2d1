import math

import numpy as np
import pytest

from core.multisource.bounds import bound_ratio, tv_bound
from core.multisource.bracketing import ArmFamily, EbmFamily, GaussianFamily

FAMILIES = [
    GaussianFamily(d=10, d1=3, B=2.0),
    GaussianFamily(d=4, d1=4, B=0.5),
    ArmFamily(L=5, W=64, S=13_314, B=1.0, D=10, M=2, d_e=64),
    EbmFamily(L=3, W=16, S=300, B=2.0, d_e=8),
]


def written_out(family, K, multi, eps):
    """The logarithms as the theorems print them, in Python's integers and floats."""
    f = family
    if isinstance(f, GaussianFamily):
        power = (K - 1) * f.d1 + f.d if multi else K * f.d
        return power * math.log(2 * (1 + f.d) * f.B / eps + 1)
    B = max(f.B, 1)
    if isinstance(f, ArmFamily):
        e = f.d_e
        power = f.S + f.D + (f.D + f.M + K) * e if multi else K * (f.S + f.D + (f.D + f.M + 1) * e)
        base = 24 * math.e * f.D * (f.L + 3) * B ** (f.L + 2) * (f.W + 1) ** f.L / eps
    else:
        power = f.S + K * f.d_e if multi else K * (f.S + f.d_e)
        base = 12 * math.e * (f.L + 1) * B ** (f.L + 1) * (f.W + 1) ** f.L / eps
    return power * math.log(base)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
@pytest.mark.parametrize("K", [1, 4])
@pytest.mark.parametrize("multi", [True, False])
def test_the_numbers_are_those_of_the_theorems(family, K, multi):
    for eps in (1.0, 0.1, 1e-5):
        found = family.log_bracket(K, multi=multi)(np.array(eps))
        assert found == pytest.approx(written_out(family, K, multi, eps), rel=1e-13)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_proposition_3_3_in_the_formulas(family):
    """One class for all sources is no richer than a class for each; alike for one source."""
    eps = np.geomspace(1e-8, 1, 50)
    for K in (1, 2, 7, 100):
        multi, single = (family.log_bracket(K, multi=m)(eps) for m in (True, False))
        assert (multi <= single).all()
        assert K > 1 or (multi == single).all()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: type(f).__name__)
def test_the_ratio_of_rates_is_that_of_dimensions(family):
    for K in (1, 3, 10):
        dims = family.dim(K, multi=True) / family.dim(K, multi=False)
        assert math.sqrt(dims) == pytest.approx(bound_ratio(K, family.beta_sim), rel=1e-13)


def test_the_similarity_of_the_papers_own_network():
    """S = 13,314 of 14,092 parameters with K = 1, of which 64 are a source's own."""
    family = FAMILIES[2]
    assert family.dim(1, multi=True) == 13_314 + 10 + 13 * 64 == 14_156
    assert family.beta_sim == pytest.approx(1 - 64 / 14_156)


def test_at_the_papers_sizes_the_bound_says_nothing():
    """n = 30,000, K = 3, D = 10: the bound on a number below one is above ten."""
    assert tv_bound(FAMILIES[2].log_bracket(3, multi=True), 30_000) > 10


def test_a_network_too_large_for_a_float_has_a_logarithm():
    family = EbmFamily(L=500, W=1000, S=10**8, B=10.0, d_e=64)
    assert np.isfinite(family.log_bracket(3, multi=True)(np.array(1e-9)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GaussianFamily(d=3, d1=4, B=1), "d1 <= d"),
        (lambda: GaussianFamily(d=3, d1=1, B=0), "B > 0"),
        (lambda: FAMILIES[0].dim(0, multi=True), "K >= 1"),
        (lambda: FAMILIES[0].log_bracket(2, multi=True)(np.array(2.0)), r"eps in \(0, 1\]"),
    ],
)
def test_what_is_no_family_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
