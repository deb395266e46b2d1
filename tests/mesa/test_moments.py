"""The laws of x_1 against their own draws, against scipy, and against the theory's conditions."""

import numpy as np
import pytest
import scipy.stats
import torch

from core.mesa.moments import (
    Kappas,
    Start,
    all_ones,
    centred_exponential,
    gaussian,
    independent,
    laplace,
    rademacher,
    sparse,
    ternary,
    uniform,
)

STARTS = [
    gaussian(3, 0.7),
    uniform(3, 1.3),
    laplace(3, 0.5),
    ternary(3, 1.2, 0.4),
    rademacher(3, 0.9),
    sparse(3, 0.8),
    centred_exponential(3, 0.6),
    all_ones(3),
]
by_name = pytest.mark.parametrize("start", STARTS, ids=lambda s: s.name)


@by_name
@pytest.mark.parametrize("n", [(1,), (2,), (4,), (6,), (2, 2), (2, 4), (1, 1), (3, 3), (2, 2, 2)])
def test_a_moment_is_what_its_draws_average_to(start, n):
    x = start.draw(200_000, torch.Generator().manual_seed(3)).numpy()
    product = np.prod([x[:, k] ** e for k, e in enumerate(n)], axis=0)
    error = product.std() / np.sqrt(len(x))
    assert abs(product.mean() - start.moment(n)) <= 4.5 * error + 1e-12


@pytest.mark.parametrize(
    ("start", "law"),
    [
        (gaussian(1, 1.7), scipy.stats.norm(scale=1.7)),
        (uniform(1, 0.4), scipy.stats.uniform(-0.4, 0.8)),
        (laplace(1, 2.0), scipy.stats.laplace(scale=2.0)),
        (centred_exponential(1, 1.5), scipy.stats.expon(-1.5, 1.5)),
    ],
)
def test_moments_of_one_coordinate_are_scipys(start, law):
    for n in range(1, 7):
        # scipy integrates numerically
        assert start.moment((n,)) == pytest.approx(law.moment(n), rel=1e-8, abs=1e-8)


def test_kappas_of_the_standard_normal_are_the_papers():
    # kappa_3 = (d - 1) E x^2 E x^4 = 4 * 1 * 3
    assert gaussian(5).kappas == Kappas(1.0, 3.0, 15.0, 12.0)


@by_name
def test_cauchy_schwarz_holds_for_every_law(start):
    k0, k1, k2, _ = start.kappas
    assert k1**2 <= k0 * k2 * (1 + 1e-12)


def test_all_symmetric_laws_train_diagonally_and_the_others_say_why_not():
    for start in STARTS[:6]:
        start.require_diagonal_training()
    with pytest.raises(ValueError, match=r"does not meet Assumption 4\.1.*\(1,\)"):
        all_ones(3).require_diagonal_training()
    with pytest.raises(ValueError, match=r"meets Assumption 4\.1, but E\[x_j\^3 x_r\^3\] = 4,"):
        centred_exponential(3).require_diagonal_training()


def test_one_coordinate_has_no_cubes_to_vanish():
    assert centred_exponential(1).cubes_vanish


@pytest.mark.parametrize(
    "make",
    [
        lambda: gaussian(0),
        lambda: gaussian(3, -1.0),
        lambda: gaussian(3, float("nan")),
        lambda: sparse(3, 0.0),
        lambda: ternary(3, 1.0, 1.5),
        lambda: Kappas(1.0, 2.0, 1.0, 0.0).check(),
        lambda: Kappas(1.0, float("inf"), 1.0, 0.0).check(),
        lambda: Kappas(-1.0, 1.0, 1.0, 0.0).check(),
    ],
)
def test_impossible_laws_are_refused(make):
    with pytest.raises(ValueError, match="want"):
        make()


def test_a_law_of_ones_own_needs_only_moments_and_draws():
    coin = independent(
        "coin", 2, lambda n: 0.5, lambda N, g: torch.randint(2, (N,), generator=g).double()
    )
    assert isinstance(coin, Start)
    assert coin.draw(4, torch.Generator().manual_seed(0)).shape == (4, 2)
    assert not coin.meets_assumption_41
