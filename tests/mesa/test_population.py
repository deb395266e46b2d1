"""The exact engine against quadrature, finite differences, the paper's formulas and itself."""

import itertools

import numpy as np
import pytest
import torch

from core.mesa.flow import ReducedFlow, harmonic
from core.mesa.moments import (
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
from core.mesa.population import Population
from core.mesa.published import INITS, published_runs
from core.mesa.quadratic import Weights, diagonal_weights, gaussian_weights
from core.mesa.symmetric import off_diagonal_gradient

SKEWED = independent(  # 2 with probability 1/3, else -1: mean zero, third moment 2
    "skewed", 2, lambda n: (2.0**n + 2 * (-1.0) ** n) / 3, lambda N, g: torch.zeros(N)
)
NODES = {
    "gauss": (gaussian(2), *np.polynomial.hermite_e.hermegauss(4)),  # exact to degree 7
    "signs": (rademacher(2), np.array([-1.0, 1.0]), np.array([0.5, 0.5])),
    "ones": (all_ones(2), np.array([1.0]), np.array([1.0])),
    "skewed": (SKEWED, np.array([2.0, -1.0]), np.array([1 / 3, 2 / 3])),
}


def quadrature(nodes, weights, T, grid=40):
    """Every sequence of a product rule over x_1 and the phases (exact below degree `grid`)."""
    points = torch.tensor(list(itertools.product(nodes, repeat=2)))
    mass = torch.tensor(list(itertools.product(weights / weights.sum(), repeat=2))).prod(1)
    theta = torch.arange(grid, dtype=torch.float64) * 2 * torch.pi / grid
    theta = torch.stack(torch.meshgrid(theta, theta, indexing="ij"), -1).reshape(-1, 2)
    powers = torch.exp(1j * theta[:, None, :] * torch.arange(T)[None, :, None])
    x = (powers[:, None] * points[None, :, None, :]).reshape(-1, T, 2)
    return x, mass.repeat(len(theta)) / len(theta)


def direct_loss(W_PV, W_KQ, x, mass):
    """Eq. (2) as it is written, over weighted sequences."""
    e = torch.cat([x, torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)], 2)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(2, x.shape[1]):
        E = e[:, :t].mT
        y = W_PV.to(x.dtype) @ E @ E.mH @ W_KQ.to(x.dtype) @ E[:, :, -1:] / (t - 1)
        total = total + 0.5 * (mass * (y[..., 0] - x[:, t]).abs().square().sum(1)).sum()
    return total


@pytest.mark.parametrize("law", NODES)
def test_loss_and_gradient_are_those_of_quadrature(law, rng):
    start, nodes, weights = NODES[law]
    x, mass = quadrature(nodes, weights, T=6)
    dense = gaussian_weights(2, 1.0, rng)
    W_PV, W_KQ = (torch.tensor(block, requires_grad=True) for block in dense)
    loss = direct_loss(W_PV, W_KQ, x, mass)
    expected = torch.autograd.grad(loss, (W_PV, W_KQ))
    population = Population(start, 6)
    assert population.loss(dense) == pytest.approx(loss.item(), rel=1e-13)
    for ours, theirs in zip(population.gradient(dense), expected, strict=True):
        assert np.abs(ours - theirs.numpy()).max() <= 1e-13 * theirs.abs().max().item()


@pytest.mark.parametrize("start", [gaussian(3), all_ones(3), sparse(3, 0.5)], ids=lambda s: s.name)
def test_gradient_and_hessian_are_the_slopes_of_the_loss(start, rng):
    population, at = Population(start, 7), gaussian_weights(3, 0.5, rng)
    u = gaussian_weights(3, 1.0, rng)
    h = 1e-4

    def moved(step):
        return Weights(*(w + step * du for w, du in zip(at, u, strict=True)))

    # L is a quartic: a central difference of step 1e-4 is off by 1e-8 of its third derivative
    slope = (population.loss(moved(h)) - population.loss(moved(-h))) / (2 * h)
    inner = sum((g * du).sum() for g, du in zip(population.gradient(at), u, strict=True))
    assert slope == pytest.approx(inner, rel=1e-5)
    flat = np.concatenate([du.ravel() for du in u])
    up, down = population.gradient(moved(h)), population.gradient(moved(-h))
    change = np.concatenate([(p - m).ravel() / (2 * h) for p, m in zip(up, down, strict=True)])
    error = np.abs(population.hessian(at) @ flat - change).max()
    assert error <= 1e-6 * np.abs(change).max()


DIAGONAL = [
    gaussian(5, 0.5),
    gaussian(5),
    gaussian(5, 2.0),
    sparse(5, 0.5),
    sparse(5),
    rademacher(5),
    uniform(5),
    laplace(5),
    ternary(5, 1.0, 0.5),
]


@pytest.mark.parametrize("start", DIAGONAL, ids=lambda s: s.name)
@pytest.mark.parametrize("T", [3, 100])
def test_off_the_diagonal_the_gradient_is_zero_and_on_it_lemma_52(start, T):
    a, b = 0.5, 1.5
    g = Population(start, T).gradient(diagonal_weights(5, a, b))
    assert np.abs(g.off_diagonal).max() == 0.0
    assert np.abs(g.others).max() == 0.0
    da, db = ReducedFlow.trained_on(start, T).velocity(a, b)
    assert np.diagonal(g.W32) == pytest.approx(-da, rel=1e-12)
    assert np.diagonal(g.W12) == pytest.approx(-db, rel=1e-12)


@pytest.mark.parametrize("T", [4, 7, 100])
def test_the_all_ones_start_leaves_the_diagonal_as_appendix_a8_says(T):
    g = Population(all_ones(5), T).gradient(diagonal_weights(5, 0.5, 1.5))
    assert g.off_diagonal[1] == pytest.approx(off_diagonal_gradient(5, T, 0.5, 1.5), rel=1e-12)
    assert np.abs(g.others).max() == 0.0
    da, db = ReducedFlow.trained_on(all_ones(5), T, masked=True).velocity(0.5, 1.5)
    assert np.diagonal(g.W32) == pytest.approx(-da, rel=1e-12)
    assert np.diagonal(g.W12) == pytest.approx(-db, rel=1e-12)


@pytest.mark.parametrize("T", [4, 7, 100])
def test_a_skewed_start_leaves_the_diagonal_by_its_cubes(T):
    # sum_t (t-1)/(t-1)^2 = H points (i, i') with i + i' = t survive the phases
    start, a, b = centred_exponential(4, 0.8), 0.5, 1.5
    g = Population(start, T).gradient(diagonal_weights(4, a, b))
    cubes = start.moment((3, 3)) * harmonic(T)
    assert start.meets_assumption_41
    assert g.off_diagonal[0] == pytest.approx(a**2 * b * cubes, rel=1e-12)
    assert g.off_diagonal[1] == pytest.approx(a * b**2 * cubes, rel=1e-12)
    assert np.abs(g.others).max() == 0.0


@pytest.mark.parametrize("run", published_runs(), ids=lambda run: run.start.name)
@pytest.mark.parametrize(("a0", "b0"), INITS)
def test_training_all_parameters_is_the_reduced_map(run, a0, b0):
    weights = diagonal_weights(5, a0, b0)
    path = list(run.population.descend(weights, lr=run.lr, steps=run.epochs))
    a, b = run.flow.descend(a0, b0, lr=run.lr, steps=run.epochs)
    ab = np.array([weights.ab for weights in path])
    assert np.abs(ab - (a * b)[:, None]).max() <= 1e-12
    assert max(np.abs(weights.off_diagonal).max() for weights in path) == 0.0
    assert max(np.abs(weights.others).max() for weights in path) == 0.0


def test_the_limit_of_figure_4_is_the_formula_at_a_short_context():
    *_, last = Population(gaussian(5), 5).descend(
        diagonal_weights(5, 0.1, 0.1), lr=5e-3, steps=4000
    )
    assert last.ab == pytest.approx(3 / (15 + 12 * harmonic(5) / 3), rel=1e-12)
    assert last.ab[0] == pytest.approx(0.13432836, abs=5e-9)


def test_the_only_linear_term_pairs_the_two_diagonals():
    # what lets training leave zero: d entries, all (T - 2) kappa_1 (rank-d linear part)
    C = Population(gaussian(5), 100).C
    assert np.count_nonzero(C) == 5
    assert C[C != 0] == pytest.approx(98 * 3.0, rel=1e-13)


def test_the_whole_layer_is_sharper_than_its_reduced_map():
    population, flow = Population(gaussian(5), 100), ReducedFlow.trained_on(gaussian(5), 100)
    a, b = flow.solve(0.1, 0.1, [1.0])
    ratio = population.sharpness(diagonal_weights(5, a[0], b[0]))
    ratio *= flow.largest_stable_step(0.1, 0.1) / 2
    assert ratio == pytest.approx(1.65, abs=0.01)  # the figure of an independent computation


def test_gradient_descent_above_two_over_the_sharpness_leaves_the_minimum():
    population = Population(gaussian(2), 6)
    *_, best = population.descend(diagonal_weights(2, 0.1, 0.1), lr=1e-2, steps=4000)
    edge = 2 / population.sharpness(best)
    kicked = Weights(best.W_PV + 1e-6, best.W_KQ + 1e-6)
    floor = population.loss(best)
    # the top direction shrinks by 0.8 or grows by 1.2 a step; later the layer finds a flatter end
    *_, below = population.descend(kicked, lr=0.9 * edge, steps=20)
    *_, above = population.descend(kicked, lr=1.1 * edge, steps=20)
    start = population.loss(kicked) - floor
    assert population.loss(below) - floor < 0.9 * start
    assert population.loss(above) - floor > 10 * start


def test_masked_training_keeps_the_diagonal_of_the_all_ones_start():
    population = Population(all_ones(3), 10)
    *_, last = population.descend(diagonal_weights(3, 0.1, 0.1), lr=0.02, steps=3000, masked=True)
    assert np.abs(last.off_diagonal).max() == 0.0
    limit = ReducedFlow.trained_on(all_ones(3), 10, masked=True).limit
    assert last.ab == pytest.approx(limit, rel=1e-12)
    assert limit == pytest.approx(1 / (1 + 2 * harmonic(10) / 8), rel=1e-14)  # Theorem 4.3


@pytest.mark.parametrize(
    ("weights", "wrong"),
    [
        (Weights(np.zeros((3, 6)), np.zeros((6, 6))), r"want W_PV \[d, 2d\] = \(2, 4\)"),
        (Weights(np.zeros((2, 4)), np.full((4, 4), np.nan)), "want finite weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, wrong):
    with pytest.raises(ValueError, match=wrong):
        Population(gaussian(2), 4).loss(weights)


def test_training_that_diverges_says_so():
    with pytest.raises(ValueError, match=r"diverged at step \d+ with lr = 5"):
        list(Population(gaussian(2), 4).descend(diagonal_weights(2, 2.0, 2.0), lr=5.0, steps=50))


def test_no_step_is_no_training():
    with pytest.raises(ValueError, match="want lr > 0"):
        list(Population(gaussian(2), 4).descend(diagonal_weights(2, 1.0, 1.0), lr=0.0, steps=5))
    with pytest.raises(ValueError, match="sigma_w"):
        gaussian_weights(2, 0.0, np.random.default_rng(0))
