r"""Does the theory apply to these data, and what does it predict for them?

Hand over a sample of starts, of sequences, or a sampler:

    print(check_assumptions(x))

and read the moments with their standard errors, whether anything speaks against Assumption 4.1
(training keeps the layer one gradient step) or against Assumption 4.2 (that step suffices), and
what a layer trained at length T_tr should do at length T_te. A test that finds nothing has not
proved the assumption: it says that N starts are too few to see a violation.

Assumption 4.2 is one number, 1 - kappa1^2 / (kappa0 kappa2): what is left of the error as T_tr and
T_te grow, zero exactly where x_j^2 takes only the values 0 and c^2. (That equivalence also wants
exchangeable, sign-symmetric coordinates and W with distinct eigenvalues, which almost all have.)

Source: arXiv:2405.16845v2, Assumptions 4.1 and 4.2, Theorems 4.1 and 4.2, Proposition 4.1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.checks import at_least
from core.mesa import capability
from core.mesa._checks import finite
from core.mesa.flow import ReducedFlow
from core.mesa.measure import Estimate
from core.mesa.moment_tests import (
    Array,
    MomentTest,
    cube_tests,
    exchangeability_tests,
    first_power_tests,
    holm,
    phase_tests,
    symmetric_mean,
)
from core.mesa.moments import Kappas

Sampler = Callable[[int, torch.Generator], Tensor]
"""(N, generator) -> `[N, d]` starts, such as `Start.draw`."""

FEWEST = 20
"""Starts below which error bars mean nothing."""
SIZES = (1e-20, 1e20)
"""Between which the largest coordinate must lie: the errors of kappa2 need its twelfth power."""


@dataclass(frozen=True)
class Report:
    """What a sample says about the assumptions, and what follows if they hold."""

    N: int
    d: int
    T_tr: int
    T_te: int
    alpha: float
    """Chance that any test fails on data that meet the assumptions, at most."""
    kappas: Kappas
    kappa_errors: tuple[float, float, float, float]
    exchange: tuple[MomentTest, ...]
    first_powers: tuple[MomentTest, ...]
    cubes: tuple[MomentTest, ...]
    phases: tuple[MomentTest, ...]
    """Of sequences only."""
    rotation_residual: float | None
    """Of sequences: relative distance from x_{t+1,j} = lambda_j x_{t,j} with |lambda_j| = 1."""
    effective: float
    """How many equal starts would fix kappa2 as well: below 100, all errors are too small."""
    limit: Estimate
    """Theorem 4.1's product ab, for endless data."""
    ratio: Estimate
    """Mean ratio of prediction to truth, where the truth is not zero (Proposition 4.1)."""
    relative_mse: Estimate
    """At length T_te."""
    floor: Estimate
    """1 - kappa1^2 / (kappa0 kappa2): Assumption 4.2 as a number."""
    tolerance: float
    """An error floor below this counts as none."""

    @property
    def exchangeable(self) -> bool:
        """Whether no coordinate was seen to differ from the others."""
        return all(test.p >= self.alpha for test in self.exchange)

    @property
    def plausible_41(self) -> bool:
        """Whether nothing speaks against Assumption 4.1 (alike coordinates, no first power)."""
        return self.exchangeable and all(test.p >= self.alpha for test in self.first_powers)

    @property
    def cubes_vanish(self) -> bool:
        """Whether E x_j^3 x_r^3 may be zero, which Lemma 5.2 needs besides Assumption 4.1."""
        return all(test.p >= self.alpha for test in self.cubes)

    @property
    def rotates(self) -> bool:
        """Whether nothing speaks against a diagonal unitary W with uniform, independent phases."""
        residual = self.rotation_residual or 0.0
        return residual < 1e-6 and all(test.p >= self.alpha for test in self.phases)

    @property
    def plausible_42(self) -> bool:
        """Whether the error floor is none, within two errors (Theorem 4.2 wants 4.1 besides)."""
        return self.floor.value - 2 * self.floor.standard_error <= self.tolerance

    def __str__(self) -> str:
        """Return the table to print."""
        names = ("kappa0", "kappa1", "kappa2", "kappa3")
        kappas = map(Estimate, self.kappas, self.kappa_errors)
        rows = [
            ("starts", f"{self.N} with d = {self.d}"),
            *zip(names, map(_pm, kappas), strict=True),
            ("coordinates alike", _verdict(self.exchangeable, self.exchange, self.alpha)),
            ("Assumption 4.1", _verdict(self.plausible_41, self.first_powers, self.alpha)),
            ("E x_i^3 x_j^3 = 0", _verdict(self.cubes_vanish, self.cubes, self.alpha)),
            ("Assumption 4.2", _verdict(self.plausible_42, (), self.alpha)),
            ("error floor", _pm(self.floor)),
            (f"limit ab (T_tr = {self.T_tr})", _pm(self.limit)),
            ("mean ratio", _pm(self.ratio)),
            (f"relative MSE (T_te = {self.T_te})", _pm(self.relative_mse)),
        ]
        if self.rotation_residual is not None:
            verdict = _verdict(self.rotates, self.phases, self.alpha)
            rows.insert(
                1, ("diagonal unitary W", f"{verdict}, residual {self.rotation_residual:.1e}")
            )
        if not self.plausible_41:
            rows.append(("note", "the last three are for weights kept diagonal"))
        if self.effective < 100:
            rows.append(("note", f"{self.effective:.0f} starts carry kappa2: errors are too small"))
        return "\n".join(f"{name:27}{text}" for name, text in rows)


def check_assumptions(
    data: Tensor | np.ndarray | Sampler,
    *,
    T_tr: int = 100,
    T_te: int = 100,
    N: int = 10_000,
    generator: torch.Generator | None = None,
    alpha: float = 0.05,
    tolerance: float = 0.01,
) -> Report:
    """Estimate the moments, test the assumptions, predict the trained layer.

    Args:
        data: `[N, d]` real starts, `[N, T, d]` sequences (their x_1 is used, real up to rounding,
            and their dynamics checked), or a sampler of starts.
        T_tr: training length of the predictions, at least three.
        T_te: test length of the predictions, at least two.
        N: starts to draw, of a sampler only.
        generator: what a sampler draws from; required for one.
        alpha: chance that any test fails although the assumptions hold, at most.
        tolerance: relative MSE below which an error floor counts as none.

    Returns:
        The report; `print` it.

    Raises:
        ValueError: empty data, fewer than 20 starts, a wrong shape, no numbers, NaN or infinity,
            numbers too large or small for their twelfth power, complex starts, all zeros (also
            after x_1), a length too short, or a sampler without a generator.
    """
    at_least(3, because="the loss sums t = 2..T-1", T_tr=T_tr)
    at_least(2, because="one transition to learn from", T_te=T_te)
    finite(alpha=alpha, tolerance=tolerance)
    if not (0 < alpha < 1 and 0 <= tolerance < 1):
        raise ValueError(f"want 0 < alpha < 1 and 0 <= tolerance < 1, got {alpha}, {tolerance}")
    if callable(data):
        if generator is None:
            raise ValueError("want a generator to draw from, such as torch.Generator()")
        at_least(FEWEST, because="for error bars", N=N)
        data = data(N, generator)
    sample = _sample(data)
    x, families = _starts(sample), _families(sample)
    adjusted = iter(holm(list(chain(*families))))
    exchange, first, cubes, phases = (tuple(next(adjusted) for _ in family) for family in families)
    return Report(
        N=len(x),
        d=x.shape[1],
        T_tr=T_tr,
        T_te=T_te,
        alpha=alpha,
        exchange=exchange,
        first_powers=first,
        cubes=cubes,
        phases=phases,
        rotation_residual=_rotation(sample)[1] if sample.ndim == 3 else None,
        tolerance=tolerance,
        **_predictions(_terms(x), T_tr, T_te),
    )


def _families(sample: np.ndarray) -> list[list[MomentTest]]:
    x = _starts(sample)
    phases = phase_tests(_rotation(sample)[0]) if sample.ndim == 3 else []
    return [exchangeability_tests(x), first_power_tests(x), cube_tests(x), phases]


def _predictions(terms: Array, T_tr: int, T_te: int) -> dict[str, Any]:
    """Return the moments and what follows from them, with errors."""

    def limit(kappas: Kappas) -> float:
        return ReducedFlow.of(kappas, T_tr).limit

    return {
        "kappas": Kappas(*terms.mean(axis=0)[:4].tolist()),
        "kappa_errors": tuple((terms.std(axis=0, ddof=1) / sqrt(len(terms)))[:4].tolist()),
        "effective": float(terms[:, 2].sum() ** 2 / (terms[:, 2] ** 2).sum()),
        "limit": _jackknife(terms, lambda k, _: limit(k)),
        "ratio": _jackknife(terms, lambda k, seen: capability.mean_ratio(k, limit(k)) / seen),
        "relative_mse": _jackknife(terms, lambda k, _: capability.relative_mse(k, limit(k), T_te)),
        "floor": _jackknife(terms, lambda k, _: capability.error_floor(k)),
    }


def _sample(data: Tensor | np.ndarray) -> np.ndarray:
    sample = _doubles(data)
    if sample.ndim not in (2, 3) or min(sample.shape) < 1 or sample[0].ndim == 2 > sample.shape[1]:
        raise ValueError(
            f"want starts [N, d] or sequences [N, T >= 2, d], got {list(sample.shape)}"
        )
    if len(sample) < FEWEST:
        raise ValueError(f"want at least {FEWEST} starts for error bars, got {len(sample)}")
    if not np.isfinite(sample).all():
        raise ValueError("want finite data, got NaN or infinity among them")
    if (size := np.abs(sample).max()) > SIZES[1]:
        raise ValueError(f"want values up to {SIZES[1]:g}, got {size:.3g}: choose another unit")
    return sample


def _doubles(data: Tensor | np.ndarray) -> np.ndarray:
    """Return what came in double precision, real or complex."""
    if isinstance(data, Tensor):
        double = torch.complex128 if data.is_complex() else torch.float64
        return data.detach().cpu().to(double).resolve_conj().numpy()
    sample = np.asarray(data)
    if sample.dtype.kind not in "biufc":
        raise ValueError(f"want numbers, got an array of dtype {sample.dtype}")
    return sample.astype(np.complex128 if sample.dtype.kind == "c" else np.float64)


def _starts(sample: np.ndarray) -> Array:
    """Return x_1 `[N, d]`, refused unless real."""
    x = sample[:, 0] if sample.ndim == 3 else sample
    if not x.any():
        raise ValueError("want starts that are not all zero")
    size = np.abs(x).max()
    if size < SIZES[0]:
        raise ValueError(
            f"want |x_j| from {SIZES[0]:g}, got {size:.3g} at most: choose another unit"
        )
    if np.abs(np.imag(x)).max() > 1e-6 * size:
        raise ValueError("want real starts x_1, as the theory does, got complex ones")
    return np.asarray(np.real(x), dtype=np.float64)


def _rotation(sequences: np.ndarray) -> tuple[NDArray[np.complex128], float]:
    """Return the best phases lambda `[N, d]`, and |x_{t+1} - lambda x_t| / |x_{t+1}| overall."""
    sequences = sequences.astype(np.complex128)
    before, after = sequences[:, :-1], sequences[:, 1:]
    energy = np.linalg.norm(after)
    if energy == 0:
        raise ValueError("want sequences that move, got zeros alone after x_1")
    overlap = (after * before.conj()).sum(axis=1)
    size = np.abs(overlap)
    phase = np.divide(overlap, size, out=np.zeros(size.shape, dtype=complex), where=size > 0)
    residual = np.linalg.norm(after - phase[:, None] * before)
    return phase, float(residual / energy)


def _terms(x: Array) -> Array:
    """Return `[N, 5]`: each start's share in kappa0, ..., kappa3, and of its coordinates not 0."""
    d = x.shape[1]
    k3 = (d - 1) * symmetric_mean(x, (2, 4)) if d > 1 else np.zeros(len(x))
    kappas = [symmetric_mean(x, (n,)) for n in (2, 4, 6)]
    return np.stack([*kappas, k3, (x != 0).mean(axis=1)], axis=1)


def _jackknife(
    terms: Array, function: Callable[[Kappas, float], float], groups: int = 100
) -> Estimate:
    """Return function(kappas, share not 0) and its error, from leaving out a group at a time."""
    parts = np.array_split(terms, min(groups, len(terms)))
    total = terms.sum(axis=0)
    without = [(total - part.sum(axis=0)) / (len(terms) - len(part)) for part in parts]
    *left_out, value = (
        function(Kappas(*means[:4].tolist()), float(means[4]))
        for means in (*without, total / len(terms))
    )
    return Estimate(value, sqrt((len(parts) - 1) * float(np.var(left_out))))


def _pm(estimate: Estimate) -> str:
    value, error = estimate
    return f"{value:.5g} ± {error if error > 1e-12 * abs(value) else 0.0:.2g}"


def _verdict(plausible: bool, tests: tuple[MomentTest, ...], alpha: float) -> str:
    verdict = "plausible" if plausible else "violated"
    failed = [test for test in tests if test.p < alpha]
    if not failed:
        return verdict
    worst = min(failed, key=lambda test: test.p)
    return (
        f"{verdict}: {len(failed)} of {len(tests)} tests, "
        f"{worst.name} = {worst.mean:.3g} ± {worst.standard_error:.2g}"
    )
