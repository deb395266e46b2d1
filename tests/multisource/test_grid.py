import math

import numpy as np
import pytest
import torch
from scipy import integrate

from core.multisource.grid import Energy, grid_tv

FREQUENCIES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])


def cosines(theta, kinks=False):
    """u(x) = sum_m theta_m cos(pi a_m x) cos(pi b_m y), with bounds on its derivatives."""
    theta = torch.as_tensor(theta)
    of = lambda x: theta @ torch.cos(math.pi * x[:, None] * FREQUENCIES.double()).prod(-1).T  # noqa: E731
    total = math.pi * FREQUENCIES.sum(1).double()
    lipschitz, curvature = theta.abs() @ total, theta.abs() @ total**2
    return Energy(of, lipschitz, None if kinks else curvature)


def test_the_interval_holds_the_double_integral(rng):
    theta, other = rng.standard_normal((2, 2, 4)) * 0.5
    found = grid_tv(cosines(theta), cosines(other), D=2, points=200)
    # a fine independent rule: 60 x 60 squares of 6 x 6 Gauss points
    z, w = np.polynomial.legendre.leggauss(6)
    edges = np.arange(60) / 60
    x = (edges[:, None] + (z + 1) / 120).ravel()
    w = np.tile(w / 120, 60)
    points = torch.tensor(np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2))
    W = torch.tensor(np.outer(w, w).ravel())
    P, Q = ((-cosines(y).of(points)).exp() for y in (theta, other))
    P, Q = P / (P @ W)[:, None], Q / (Q @ W)[:, None]
    truth = (P - Q).abs() @ W / 2
    # kinks of |p - q| leave the fine rule some 1e-6
    assert ((found.value - truth).abs() <= found.error + 1e-5).all()
    assert found.error.max() < 0.01


def test_one_coordinate_against_adaptive_quadrature():
    u, v = (lambda x, a=a: a * torch.cos(3 * x).T for a in (1.0, -0.5))
    found = grid_tv(Energy(u, 3.0, 9.0), Energy(v, 1.5, 4.5), D=1, points=1000)
    p, q = (lambda x, a=a: math.exp(-a * math.cos(3 * x)) for a in (1.0, -0.5))
    Z_p, Z_q = (integrate.quad(f, 0, 1, epsabs=1e-13)[0] for f in (p, q))
    diff = lambda x: abs(p(x) / Z_p - q(x) / Z_q) / 2  # noqa: E731
    truth = integrate.quad(diff, 0, 1, epsabs=1e-12, limit=500)[0]
    assert abs(found.value - truth) <= found.error < 1e-4


def test_the_error_falls_with_the_square_of_the_width(rng):
    theta, other = rng.standard_normal((2, 1, 4)) * 0.3
    errors = [
        grid_tv(cosines(theta), cosines(other), D=2, points=m).error.item() for m in (50, 100, 200)
    ]
    slopes = np.diff(np.log(errors)) / math.log(2)
    assert slopes == pytest.approx(-2, abs=0.15)
    kinked = [
        grid_tv(cosines(theta, True), cosines(other, True), D=2, points=m).error.item()
        for m in (200, 400)
    ]
    # what changes sign is still of second order, and adds to it
    assert np.diff(np.log(kinked))[0] / math.log(2) == pytest.approx(-1, abs=0.2)


def test_of_a_kinked_energy_the_interval_holds_too():
    """u = 4 |x - y|: p is known, and so is TV to the uniform law."""
    u = Energy(lambda x: (4 * (x[:, 0] - x[:, 1]).abs())[None], 8.0)
    flat = Energy(lambda x: torch.zeros(1, len(x)), 0.0)
    found = grid_tv(u, flat, D=2, points=300)
    Z = 2 * (1 / 4 - (1 - math.exp(-4)) / 16)  # int int exp(-4 |x - y|)
    s = -math.log(Z) / 4  # p > 1 where |x - y| < s; there
    mass = 2 * ((1 - math.exp(-4 * s)) / 4 - (1 - math.exp(-4 * s) * (1 + 4 * s)) / 16)
    truth = mass / Z - (1 - (1 - s) ** 2)
    assert abs(found.value.item() - truth) <= found.error.item() < 0.06


@pytest.mark.parametrize("h", [1.0, 0.3, 0.01])
def test_changes_within_a_cell_are_bounds_and_near(h):
    """A slope and a bend, integrated over one cell: x from -h/2 to h/2."""
    t = np.linspace(-h / 2, h / 2, 20_001)
    for slope, bend in ((2.0, 0.0), (0.0, 3.0), (0.0, -3.0), (1.5, -2.0)):
        u = slope * t + bend * t**2 / 2
        steepest = abs(slope) + abs(bend) * h / 2
        r, w = Energy(lambda x: x, steepest, abs(bend)).changes(h)
        assert np.abs(u).max() <= r + 1e-12
        log_mass = abs(math.log(integrate.simpson(np.exp(-u), x=t) / h))
        # of the mass in its cell, and of that of all cells
        assert log_mass <= w + 1e-12
        assert bend or r == pytest.approx(np.abs(u).max())  # a slope reaches it
        assert w <= 12 * log_mass  # what is given away: 3 for a slope, 12 for a bend
    r, w = Energy(lambda x: x, 2.0).changes(h)
    assert (r, w) == (h, 2 * h)


@pytest.mark.parametrize("slope", [0.3, 1.0, 4.0])
def test_what_happens_within_one_cell_is_in_the_error(slope):
    """One cell sees no difference between exp(-slope x) and the uniform law; TV is known."""
    flat = Energy(lambda x: torch.zeros(1, len(x)), 0.0, 0.0)
    tilted = Energy(lambda x: slope * x.T, slope, 0.0)
    found = grid_tv(tilted, flat, D=1, points=1)
    Z = -math.expm1(-slope) / slope
    s = -math.log(Z) / slope  # the densities cross
    truth = -math.expm1(-slope * s) / (slope * Z) - s
    assert abs(found.value.item() - truth) <= found.error.item() <= 8 * truth


@pytest.mark.parametrize("memory", [2**10, 2**14])
def test_blocks_change_nothing(rng, memory):
    theta, other = rng.standard_normal((2, 3, 4))
    whole = grid_tv(cosines(theta), cosines(other), D=2, points=31)
    parts = grid_tv(cosines(theta), cosines(other), D=2, points=31, memory=memory)
    torch.testing.assert_close(whole.value, parts.value, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.error, parts.error, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("D", "points", "memory", "message"),
    [
        (10, 48, 2**28, r"48\^10 cells needs 923 PiB of energies"),
        (2, 10, 16, "a cell needs 64 bytes, which is more than memory = 16 bytes"),
        (0, 10, 2**28, "D >= 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_size(D, points, memory, message):
    flat = Energy(lambda x: torch.zeros(1, len(x)), 0.0)
    with pytest.raises(ValueError, match=message):
        grid_tv(flat, flat, D=D, points=points, memory=memory)


def test_energies_of_another_shape_are_refused():
    wrong = Energy(lambda x: torch.zeros(len(x)), 0.0)
    with pytest.raises(ValueError, match=r"energies \[K, N\]"):
        grid_tv(wrong, wrong, D=2, points=3)
