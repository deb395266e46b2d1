"""The assumption checker: what it must find, what it must not, and whether its errors cover."""

import numpy as np
import pytest
import torch

from core.mesa import capability
from core.mesa.assumptions import check_assumptions
from core.mesa.flow import ReducedFlow
from core.mesa.moments import all_ones, gaussian, rademacher, sparse, ternary, uniform
from core.mesa.process import sample_phases, sample_sequences, sequences


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def skewed(N, d, seed=0):
    """Mean zero, skewed, independent: 2 with probability 1/3, else -1. E x^3 = 2."""
    return np.where(np.random.default_rng(seed).random((N, d)) < 1 / 3, 2.0, -1.0)


def test_gaussian_starts_meet_41_and_fail_42():
    report = check_assumptions(gaussian(5).draw, generator=generator())
    assert report.plausible_41
    assert report.cubes_vanish
    assert not report.plausible_42
    assert abs(report.floor.value - 0.4) < 4 * report.floor.standard_error


@pytest.mark.parametrize("start", [rademacher(4), ternary(4), sparse(4)], ids=lambda s: s.name)
def test_two_valued_squares_meet_both(start):
    report = check_assumptions(start.draw, N=2000, generator=generator())
    assert report.plausible_41
    assert report.plausible_42
    assert report.floor.value < 1e-12


def test_all_ones_fail_41_with_certainty():
    report = check_assumptions(all_ones(4).draw, N=20, generator=generator())
    assert not report.plausible_41
    assert report.exchangeable
    assert all(test.p == 0 for test in report.first_powers)


def test_gamma_starts_fail_41_by_their_mean():
    report = check_assumptions(np.random.default_rng(0).gamma(2.0, size=(500, 3)))
    assert not report.plausible_41
    assert min(report.first_powers, key=lambda test: test.p).name == "E x_i"


def test_a_skewed_law_of_mean_zero_meets_41_and_fails_the_cubes():
    report = check_assumptions(skewed(2000, 3))
    assert report.plausible_41
    assert not report.cubes_vanish
    assert report.cubes[0].mean == pytest.approx(4.0, abs=4 * report.cubes[0].standard_error)


def test_correlated_coordinates_fail_41():
    x = gaussian(3).draw(1000, generator())
    x[:, 1] += 0.3 * x[:, 0]
    x[:, 1] /= 1.09**0.5
    report = check_assumptions(x)
    assert min(report.first_powers, key=lambda test: test.p).name == "E x_i x_j"
    assert not report.plausible_41


@pytest.mark.parametrize("start", [gaussian(3), uniform(3)], ids=["gaussian", "uniform"])
def test_false_alarms_stay_below_alpha(start):
    runs, alpha = 300, 0.1
    g = generator()
    reports = [check_assumptions(start.draw(200, g), alpha=alpha) for _ in range(runs)]
    alarms = np.mean([not (r.plausible_41 and r.cubes_vanish) for r in reports])
    assert alarms < alpha + 4 * np.sqrt(alpha * (1 - alpha) / runs)


def test_standard_errors_cover():
    """Two errors must cover about 95 %: 300 sets of starts whose true numbers are known."""
    start, runs, g = uniform(3), 300, generator()
    limit = ReducedFlow.of(start.kappas, 20).limit
    truth = {
        "limit": limit,
        "ratio": capability.mean_ratio(start.kappas, limit),
        "relative_mse": capability.relative_mse(start.kappas, limit, 10),
        "floor": capability.error_floor(start.kappas),
    }
    reports = [check_assumptions(start.draw(300, g), T_tr=20, T_te=10) for _ in range(runs)]

    def covered(estimates, value):
        return np.mean([abs(v - value) <= 2 * error for v, error in estimates])

    # 95 % of 300: one standard error is 1.3 %, allow four below; never to miss is too wide
    for name, value in truth.items():
        assert 0.95 - 0.05 < covered([getattr(r, name) for r in reports], value) < 1, name
    for i, value in enumerate(start.kappas):
        estimates = [(r.kappas[i], r.kappa_errors[i]) for r in reports]
        assert 0.95 - 0.05 < covered(estimates, value) < 1, f"kappa{i}"


def test_heavy_tails_are_announced():
    report = check_assumptions(np.random.default_rng(0).laplace(size=(300, 3)))
    assert report.effective < 100
    assert "starts carry kappa2: errors are too small" in str(report)
    assert check_assumptions(uniform(3).draw, N=300, generator=generator()).effective > 100


def test_mean_ratio_leaves_out_where_the_truth_is_zero():
    """A sparse start is predicted exactly: its ratio is one, not the 1/d of all coordinates."""
    assert check_assumptions(sparse(4).draw, generator=generator()).ratio.value == pytest.approx(1)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_sequences_are_read_by_their_starts_and_their_rotation(kind):
    x = sample_sequences(uniform(3), 12, 400, generator())
    report = check_assumptions(x if kind == "torch" else x.numpy())
    starts = check_assumptions(x[:, 0].real)
    assert report.rotates
    assert report.rotation_residual is not None
    assert report.rotation_residual < 1e-12
    assert report.kappas == starts.kappas
    assert starts.rotation_residual is None
    assert "diagonal unitary W" in str(report)
    assert "diagonal unitary W" not in str(starts)


def test_shrinking_or_jumping_sequences_do_not_rotate():
    x = sample_sequences(uniform(2), 8, 50, generator())
    shrinking = x * 0.99 ** torch.arange(8)[None, :, None]
    assert not check_assumptions(shrinking).rotates
    jumping = x.clone()
    jumping[:, 4:] *= 1j
    assert not check_assumptions(jumping).rotates


def test_phases_that_are_not_uniform_are_seen():
    g = generator()
    theta = sample_phases(200, 2, g) / 2  # a half circle
    report = check_assumptions(sequences(uniform(2).draw(200, g), theta, 8))
    assert report.rotation_residual is not None
    assert report.rotation_residual < 1e-12
    assert not report.rotates


def test_a_sparse_start_with_coordinates_at_rest_still_rotates():
    assert check_assumptions(sample_sequences(sparse(5), 8, 300, generator())).rotates


def test_one_coordinate_is_enough():
    report = check_assumptions(uniform(1).draw, N=100, generator=generator())
    assert report.plausible_41
    assert report.kappas.k3 == 0


def test_the_report_reads_as_a_table():
    text = str(check_assumptions(all_ones(3).draw, N=50, generator=generator()))
    assert "Assumption 4.1             violated: 12 of 12 tests" in text
    assert "for weights kept diagonal" in text
    assert max(map(len, text.splitlines())) < 88


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.ones((0, 3)), r"got \[0, 3\]"),
        (np.ones((1, 3)), "at least 20 starts .* got 1"),
        (np.ones(7), r"got \[7\]"),
        (np.ones((30, 1, 2)), r"T >= 2, d\], got \[30, 1, 2\]"),
        (np.full((30, 2), np.nan), "NaN"),
        (np.full((30, 2), np.inf), "infinity"),
        (np.zeros((30, 2)), "all zero"),
        (1j * np.ones((30, 2)), "real starts"),
        (gaussian(2).draw, "want a generator"),
    ],
)
def test_bad_data_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        check_assumptions(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 0.0}, "0 < alpha < 1"), ({"T_tr": 2}, "T_tr = 2"), ({"T_te": 1}, "T_te = 1")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_assumptions(uniform(2).draw(50, generator()), **options)
