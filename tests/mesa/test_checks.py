"""Every door of the room refuses what it cannot use, with a ValueError that says what came."""

from typing import Any

import numpy as np
import pytest
import torch

from core.mesa import _checks, capability, measure, regression
from core.mesa.assumptions import check_assumptions
from core.mesa.counts import lattice_counts
from core.mesa.deep import LinearStack, train_stack
from core.mesa.flow import ReducedFlow
from core.mesa.lsa import LinearSelfAttention, loss_and_gradient
from core.mesa.mesa_layer import gradient_step_predict, mesa_predict, smallest_eigenvalue
from core.mesa.moments import Kappas, Start, gaussian, independent, rademacher, sparse, uniform
from core.mesa.population import Population
from core.mesa.process import sample_phases, sample_sequences, sequences, tokens
from core.mesa.published import Run, published_runs
from core.mesa.quadratic import QuadraticLoss, diagonal_weights, gaussian_weights
from core.mesa.sampled import SampledLoss, train

NAN, INF = float("nan"), float("inf")
HALF: Any = 2.5  # what the types refuse too
TEXT: Any = "x"
LIST: Any = [1, 2]
FLOW = ReducedFlow(2.0, 1.0)
KAPPAS = Kappas(1.0, 3.0, 15.0, 12.0)
X = torch.polar(torch.ones(9, 5, 2).double(), torch.arange(90).reshape(9, 5, 2).double())


def generator():
    return torch.Generator().manual_seed(0)


def refuses(*cases):
    return pytest.mark.parametrize(("call", "message"), cases, ids=[case[1] for case in cases])


def law(d, *moments):
    """A start that claims these E x^2, E x^4, E x^6 and E x_1^2 x_2^4."""
    exponents = ((2,), (4,), (6,), (2, 4))
    table: dict[tuple[int, ...], float] = dict(zip(exponents, moments, strict=True))
    return Start("claimed", d, lambda n: table.get(n, 0.0), lambda N, g: torch.ones(N, d))


def laws_refused():
    return [
        (lambda: gaussian(HALF), "got d = 2.5"),
        (lambda: gaussian(2, 1e60), "want finite moments .* got inf"),
        (lambda: gaussian(2, 1e-60), "kappa2 > 0"),
        (lambda: sparse(2, TEXT), "got c = 'x'"),
        (lambda: gaussian(2, LIST), r"want sigma > 0 and finite, got .* array \[2\]"),
        (
            lambda: independent("x", 2, lambda n: NAN, lambda N, g: torch.ones(N)),
            "finite moments .* got nan",
        ),
        (lambda: law(2, 1.0, 0.9, 1.0, 0.1), "Cauchy-Schwarz wants kappa0 <= kappa1 / kappa0"),
        (lambda: law(2, 1.0, 3.0, 8.0, 0.1), "wants kappa1 / kappa0 <= kappa2 / kappa1"),
        (lambda: law(2, 1.0, 2.0, 4.0, 4.1), "Hoelder wants kappa3 <= .* got 1.025 > 1"),
        (lambda: Kappas(1.0, NAN, 1.0, 0.0).check(), "want finite k1"),
    ]


def lengths_and_counts_refused():
    return [
        (lambda: lattice_counts(HALF), "got T = 2.5"),
        (lambda: Population(gaussian(1), 2), "got T = 2"),
        (lambda: published_runs(5, 2), "got T = 2"),
        (lambda: published_runs(0), "got d = 0"),
        (lambda: Run(gaussian(2), 9, 0.0, 5), "lr > 0 .* got lr = 0"),
        (lambda: Run(gaussian(2), 9, 0.1, -1), "got epochs = -1"),
        (lambda: ReducedFlow.of(KAPPAS, 2), "want T >= 3"),
        (lambda: sample_phases(1, HALF, generator()), "got d = 2.5"),
        (lambda: sample_sequences(gaussian(1), 3, True, generator()), "got N = True"),
        (lambda: sample_sequences(gaussian(1), 3, 0, generator()), "got N = 0"),
        (lambda: capability.relative_mse(KAPPAS, 0.1, HALF), "got T_te = 2.5"),
    ]


def weights_refused():
    return [
        (lambda: diagonal_weights(0, 1.0, 1.0), "got d = 0"),
        (lambda: diagonal_weights(2, NAN, 1.0), "got a = nan"),
        (lambda: diagonal_weights(2, 1.0, INF), "got b = inf"),
        (lambda: gaussian_weights(0, 1.0, np.random.default_rng(0)), "got d = 0"),
        (lambda: gaussian_weights(2, NAN, np.random.default_rng(0)), "got sigma_w = nan"),
        (lambda: QuadraticLoss(1, 5, np.eye(3), np.ones((1, 8)), 1.0), r"want Q \(8, 8\)"),
        (lambda: QuadraticLoss(1, 5, np.eye(8), np.full((1, 8), NAN), 1.0), "want finite C"),
        (lambda: Run(gaussian(2), 9, 0.1, 1).train(SampledLoss(X[..., :1])), "want a loss of d"),
        (lambda: LinearSelfAttention(torch.tensor(1.0), torch.ones(2, 2)), r"got \[\] and"),
        (lambda: LinearSelfAttention(torch.ones(1, 2).int(), torch.ones(2, 2).int()), "floating"),
        (lambda: LinearSelfAttention.gaussian(2, NAN, generator()), "got sigma_w = nan"),
        (lambda: LinearSelfAttention.from_diagonal(HALF, 1, 1), "got d = 2.5"),
        (lambda: loss_and_gradient(torch.ones(2, 4), torch.ones(4, 4), X, block=0), "block = 0"),
        (lambda: train(LinearSelfAttention.from_diagonal(2, 1, 1), X, lr=INF, steps=1), "lr = inf"),
        (lambda: SampledLoss(torch.tensor(1j)), r"got \[\]"),
        (lambda: LinearStack(torch.full((1, 4, 4), NAN), torch.ones(1, 4, 4)), "real and finite"),
        (lambda: LinearStack.gradient_steps(1, 1, NAN), "got eta = nan"),
        (lambda: LinearStack.gaussian(1, 1, INF, generator()), "got sigma_w = inf"),
        (lambda: stack_trained(lr=0.0), "got lr = 0"),
        (lambda: stack_trained(clip=0.0), "got clip = 0"),
        (lambda: stack_trained(lr=1e300), "diverged before step 1 with lr = 1e.300"),
    ]


def stack_trained(**options):
    stack = LinearStack.gradient_steps(1, 1, 0.1)
    return train_stack(stack, gaussian(1), 4, steps=3, generator=generator(), **options)


def numbers_refused():
    return [
        (lambda: ReducedFlow(NAN, 1.0), "got c1 = nan"),
        (lambda: ReducedFlow(1.0, 0.0), "got c2 = 0.0"),
        (lambda: FLOW.velocity(NAN, 1.0), "got a = nan"),
        (lambda: FLOW.surrogate([0.1, INF], 1.0), r"got a = an array \[2\]"),
        (lambda: FLOW.largest_stable_step(INF, 1.0), "got a0 = inf"),
        (lambda: FLOW.solve(1e200, 1.0, [1.0]), "squares are finite, got 1e.200"),
        (lambda: FLOW.solve(1.0, 1.0, [NAN]), "want finite tau"),
        (lambda: FLOW.time_to(NAN, 0.1, 0.1), "got fraction = nan"),
        (lambda: FLOW.descend(0.1, 0.1, lr=-1.0, steps=3), "got lr = -1"),
        (lambda: FLOW.descend(0.1, 0.1, lr=0.1, steps=-3), "got steps = -3"),
        (lambda: FLOW.descend(3.0, 3.0, lr=5.0, steps=50), "diverged with lr = 5"),
        (lambda: capability.mean_ratio(KAPPAS, NAN), "want finite ab, got ab = nan"),
        (lambda: capability.energy_slope(KAPPAS, INF), "got ab = inf"),
        (lambda: capability.relative_mse(KAPPAS, NAN, 9), "finite ab"),
        (lambda: measure.relative_mse(NAN * X, X), "finite prediction and truth"),
        (lambda: measure.median_relative_error(X, INF * X.real), "inf or nan among them"),
        (lambda: measure.energy_slope(1e200 * X, 1e200 * X), "they overflow"),
        (
            lambda: measure.mean_ratio(X, one_alive()),
            "two sequences whose truth is not zero, got 1",
        ),
        (lambda: measure.mean_ratio(X, X, offset=NAN), "got offset = nan"),
        (lambda: sequences(torch.tensor([[NAN]]), torch.zeros(1, 1), 3), "finite x_1 and theta"),
        (lambda: tokens(NAN * X), "finite sequences"),
        (lambda: tokens(X[:, :0]), r"got \[9, 0, 2\]"),
        (lambda: gradient_step_predict(X, NAN), "got eta = nan"),
        (lambda: gradient_step_predict(X, 0.1, steps=HALF), "got steps = 2.5"),
        (lambda: mesa_predict(X, ridge=INF), "got ridge = inf"),
        (lambda: mesa_predict(X, ridge=1e-310, solver="sherman_morrison"), "want a larger ridge"),
        (
            lambda: mesa_predict(300 * X, ridge=1.0, state_dtype=torch.float16),
            "a wider state_dtype",
        ),
        (lambda: mesa_predict(X, ridge=1.0, state_dtype=torch.int32), "floating state_dtype"),
        (lambda: smallest_eigenvalue(X, ridge=NAN), "want finite ridge"),
        (lambda: regression.one_step_relative_mse(5, 2, NAN), "got step = nan"),
        (lambda: regression.sample_prompts(5, 2, 0, generator()), "got N = 0"),
        (lambda: predicted(y=torch.ones(3)), r"want x \[N, n, d\], y \[N, n\]"),
        (lambda: predicted(query=torch.full((4, 2), NAN)), "finite prompts"),
        (lambda: predicted(step=INF), "got step = inf"),
    ]


def one_alive():
    return X * (torch.arange(9) == 3)[:, None, None]


def predicted(step=0.1, **fields):
    return regression.one_step_predict(
        regression.sample_prompts(5, 2, 4, generator())._replace(**fields), step
    )


def samples_refused():
    zeros_after = np.ones((30, 4, 2))
    zeros_after[:, 1:] = 0
    return [
        (lambda: check_assumptions(np.full((30, 2), "a")), "want numbers"),
        (lambda: check_assumptions(zeros_after), "zeros alone after x_1"),
        (lambda: check_assumptions(np.full((30, 2), 1e60)), r"up to 1e\+20, got 1e\+60"),
        (lambda: check_assumptions(np.full((30, 2), 1e-60)), "from 1e-20, got 1e-60"),
        (lambda: check_assumptions(gaussian(2).draw, N=-1, generator=generator()), "got N = -1"),
        (lambda: check_assumptions(np.ones((30, 2)), T_tr=HALF), "got T_tr = 2.5"),
        (lambda: check_assumptions(np.ones((30, 2)), alpha=TEXT), "got alpha = 'x'"),
    ]


@refuses(
    *laws_refused(),
    *lengths_and_counts_refused(),
    *weights_refused(),
    *numbers_refused(),
    *samples_refused(),
)
def test_a_door_refuses_what_it_cannot_use(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpys_scalars_pass():
    _checks.finite(a=np.float32(1.5), b=[1, 2.5])
    with pytest.raises(ValueError, match="want finite a, got a = 1j"):
        _checks.finite(a=1j)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_phases_at_roots_of_unity_are_not_uniform(order):
    """Each has mean zero; E lambda^order = 1 gives them away. Real W = +-1 come as real arrays."""
    g = generator()
    theta = 2 * torch.pi * torch.randint(order, (400, 2), generator=g) / order
    x = sequences(uniform(2).draw(400, g), theta.double(), 8)
    report = check_assumptions(x.real.numpy() if order == 2 else x)
    assert report.rotation_residual == pytest.approx(0.0, abs=1e-12)
    assert not report.rotates
    worst = {test.name for test in report.phases if test.p == 0}
    assert f"E Re lambda_1^{order}" in worst


def test_a_phase_that_is_twice_another_is_seen():
    g = generator()
    theta = sample_phases(400, 1, g)
    x = sequences(rademacher(2).draw(400, g), torch.cat([theta, 2 * theta], dim=1), 8)
    failed = [test.name for test in check_assumptions(x).phases if test.p < 0.05]
    assert failed == ["E Re lambda_1^2 / lambda_2"]


def test_uniform_phases_pass_as_often_as_alpha_says():
    g, runs, alpha = generator(), 100, 0.1
    reports = [
        check_assumptions(sample_sequences(uniform(3), 4, 100, g), alpha=alpha) for _ in range(runs)
    ]
    alarms = np.mean([not report.rotates for report in reports])
    assert alarms < alpha + 4 * np.sqrt(alpha * (1 - alpha) / runs)
