"""The closed form against an adaptive ODE solver, its invariants, its limits and its clock."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from core.mesa.flow import ReducedFlow, harmonic
from core.mesa.moments import Kappas, all_ones, centred_exponential, gaussian, sparse, uniform

FLOWS = [ReducedFlow.trained_on(s, 100) for s in (gaussian(5), sparse(5, 0.5), uniform(5))]
STARTS = [(0.1, 0.1), (0.5, 1.5), (2.0, 2.0), (1.2, -0.7), (-0.9, 0.3), (-0.5, -1.5)]
STARTS += [(1.0, -0.99), (1.0, -1.0), (0.0, 2.0), (-2.0, 0.0), (1.0, -1 + 1e-9), (0.3, 0.3 + 1e-12)]


@pytest.mark.parametrize(("a0", "b0"), STARTS)
@pytest.mark.parametrize("flow", FLOWS, ids=["gauss", "sparse", "uniform"])
def test_the_closed_form_is_what_an_ode_solver_finds(flow, a0, b0):
    tau = np.linspace(0, 4 / flow.c2, 60)
    path = solve_ivp(
        lambda _, y: flow.velocity(*y),
        (0, tau[-1]),
        (a0, b0),
        t_eval=tau,
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    assert np.abs(np.array(flow.solve(a0, b0, tau)) - path.y).max() <= 1e-9


@pytest.mark.parametrize(("a0", "b0"), STARTS)
def test_the_difference_of_squares_is_conserved(a0, b0):
    a, b = FLOWS[0].solve(a0, b0, np.linspace(0, 1, 20))
    assert a**2 - b**2 == pytest.approx(a0**2 - b0**2, abs=1e-12)


def test_every_start_but_one_line_reaches_the_limit(rng):
    flow = FLOWS[0]
    for a0, b0 in rng.uniform(-3, 3, (200, 2)):
        a, b = flow.solve(a0, b0, [5.0])
        assert a * b == pytest.approx(flow.limit, rel=1e-10)


def test_on_the_line_a_plus_b_zero_training_dies_at_the_saddle():
    a, b = FLOWS[0].solve(1.0, -1.0, [0.0, 5.0])
    assert (a[0], b[0]) == (1.0, -1.0)
    assert abs(a[1]) < 1e-300
    a, b = FLOWS[0].solve(0.0, 0.0, [1.0])
    assert (a[0], b[0]) == (0.0, 0.0)


@pytest.mark.parametrize(("a0", "b0"), [(0.1, 0.1), (0.5, 1.5), (2.0, 2.0), (-0.3, 0.1)])
def test_the_clock_agrees_with_the_curve(a0, b0):
    flow = FLOWS[0]
    fraction = 0.5 * (1 + a0 * b0 / flow.limit)  # half-way between start and limit
    tau = flow.time_to(fraction, a0, b0)
    a, b = flow.solve(a0, b0, [tau])
    assert a * b == pytest.approx(fraction * flow.limit, rel=1e-12)


def test_a_product_that_is_never_passed_is_refused():
    with pytest.raises(ValueError, match="never passes"):
        FLOWS[0].time_to(1.5, 0.1, 0.1)
    with pytest.raises(ValueError, match="never passes"):
        FLOWS[0].time_to(0.5, 1.0, -1.0)


def test_the_largest_stable_step_is_the_edge_of_the_reduced_map():
    flow = FLOWS[0]
    a, b = (x[0] for x in flow.solve(0.5, 1.5, [5.0]))
    edge = flow.largest_stable_step(0.5, 1.5)
    for step, grows in [(0.95 * edge, False), (1.05 * edge, True)]:
        p, q = flow.descend(a + 1e-7, b, lr=step, steps=200)
        kick = abs((a + 1e-7) * b - flow.limit)
        assert (abs(p[-1] * q[-1] - flow.limit) > kick) == grows


def test_the_pl_inequality_of_lemma_54_is_an_identity(rng):
    flow = FLOWS[0]
    for a, b in rng.uniform(-2, 2, (50, 2)):
        da, db = flow.velocity(a, b)
        bound = 2 * flow.c1 * (a**2 + b**2) * flow.surrogate(a, b)
        assert da**2 + db**2 == pytest.approx(float(bound), rel=1e-12)


def test_the_surrogate_has_the_flow_as_its_gradient():
    flow, h = FLOWS[0], 1e-6
    da, db = flow.velocity(0.4, -0.2)
    slope_a = (flow.surrogate(0.4 + h, -0.2) - flow.surrogate(0.4 - h, -0.2)) / (2 * h)
    slope_b = (flow.surrogate(0.4, -0.2 + h) - flow.surrogate(0.4, -0.2 - h)) / (2 * h)
    assert (-slope_a, -slope_b) == pytest.approx((da, db), rel=1e-7)


def test_limits_are_the_papers():
    assert ReducedFlow.trained_on(sparse(5, 0.5), 100).limit == pytest.approx(4.0, rel=1e-14)
    assert ReducedFlow.trained_on(gaussian(5), 100).limit == pytest.approx(0.191905, abs=5e-7)
    assert harmonic(100) == pytest.approx(5.16728, abs=5e-6)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: ReducedFlow.trained_on(all_ones(5), 100), r"Assumption 4\.1"),
        (lambda: ReducedFlow.trained_on(centred_exponential(5), 100), r"E\[x_j\^3 x_r\^3\]"),
        (lambda: ReducedFlow.of(Kappas(1.0, 4.0, 15.0, 0.0), 100), "Cauchy-Schwarz"),
        (lambda: ReducedFlow.trained_on(gaussian(5), 2), "want T >= 3"),
        (lambda: FLOWS[0].solve(1.0, float("nan"), [0.0]), "want finite b0"),
        (lambda: FLOWS[0].solve(1.0, 1.0, [-1.0]), "times >= 0"),
    ],
)
def test_what_the_theory_does_not_cover_is_refused(make, wrong):
    with pytest.raises(ValueError, match=wrong):
        make()
