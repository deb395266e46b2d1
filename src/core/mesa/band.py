r"""How far the limit of Theorem 4.1 may lie from what a finite training set gives.

With W32_KQ = a I and W12_PV = b I the loss of N sequences is a parabola in ab, so that its minimum
is a ratio of two means over the sequences,

    ab_N = mean C_n / mean Q_n,   C_n = sum_t Re x_{t+1}^* u_t,   Q_n = sum_t |u_t|^2,

u_t the prediction at a = b = 1. To first order in 1/N (the delta method), with psi = C - ab* Q,

    standard error = sd(psi) / (sqrt(N) E Q),     bias = -Cov(psi, Q) / (N (E Q)^2)

Training all weights, for a start that meets Assumption 4.1, gives the mean over j of a_j b_j the
same standard error to this order: to first order no other weight moves it, by symmetry under
exchange and signs. Its bias is larger, for the other weights fit the sample too.

Source: arXiv:2405.16845v2, Theorem 4.1 and Section 6; the band is ours.
"""

from itertools import permutations, product
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from core.checks import at_least
from core.mesa.flow import ReducedFlow, harmonic
from core.mesa.lsa import LinearSelfAttention, check_sequences
from core.mesa.moments import Start
from core.mesa.process import sample_sequences

Polynomial = dict[tuple[int, ...], float]
"""Exponents of x_1's coordinates -> coefficient."""


class FiniteSample(NamedTuple):
    """Where the product ab of a layer trained on N sequences ends, to first order in 1/N."""

    limit: float
    """Theorem 4.1's, for endless data."""
    bias: float
    """E ab_N - limit."""
    standard_error: float
    """Standard deviation of ab_N from one training set to the next."""


def diagonal_fit(x: Tensor) -> float:
    """Return where gradient descent on (a, b) alone ends for these sequences: the best ab.

    Args:
        x: `[N, T, d]` sequences, complex.

    Raises:
        ValueError: the shape does not fit, a value is not finite, or all are zero.
    """
    C, Q = (overlap.sum() for overlap in _overlaps(x))
    if Q == 0:
        raise ValueError("want sequences that are not all zero: any ab fits zeros")
    return (C / Q).item()


def finite_sample_band(
    start: Start,
    T: int,
    N: int,
    generator: torch.Generator,
    *,
    pilot: int = 2000,
    masked: bool = False,
) -> FiniteSample:
    """Predict the limit of training on N sequences of T tokens.

    What the starts x_1 contribute to the variance is exact, from moments of order 12 at most; what
    the phases add is estimated from `pilot` sequences. The expansion is in 1/N: for a Gaussian
    start the x^12 under the root make it slow, and N in the thousands is where it begins to hold.

    Args:
        start: the law of x_1.
        T: tokens of a training sequence, at least three.
        N: training sequences.
        generator: what the pilot sequences are drawn from.
        pilot: how many of them, at least two.
        masked: whether a and b alone are trained, all else masked, so that the start need not meet
            Assumption 4.1.

    Raises:
        ValueError: T, N or `pilot` is too small, a moment is not finite, or unmasked training on
            this start leaves the diagonal.
    """
    at_least(1, N=N)
    at_least(2, pilot=pilot)
    flow = ReducedFlow.trained_on(start, T, masked=masked)
    if not start.finite_moment((12,)) > 1e-300:
        raise ValueError(f"want E x_j^12 > 0, got none for {start.name!r}: choose another unit")
    mean_C, mean_Q = _means_given_start(start.d, T)
    psi = _combine(mean_C, mean_Q, flow.limit)
    phases = _phase_covariance(start, T, flow.limit, pilot, generator)
    variance = _expect(start, psi, psi) + phases[0, 0].item()  # E psi = 0
    covariance = _expect(start, psi, mean_Q) + phases[0, 1].item()
    E_Q = start.d * flow.c1
    return FiniteSample(flow.limit, -covariance / (N * E_Q**2), sqrt(max(variance, 0.0) / N) / E_Q)


def _overlaps(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return C_n and Q_n, `[N]` each."""
    check_sequences(x)
    unit = LinearSelfAttention.from_diagonal(x.shape[-1], 1.0, 1.0).to(x.device)
    with torch.no_grad():
        u = unit(x)
    C = (x[:, 2:].conj() * u).real.sum(dim=(1, 2))
    return C, u.abs().square().sum(dim=(1, 2))


def _means_given_start(d: int, T: int) -> tuple[Polynomial, Polynomial]:
    """Return E[C | x_1] = (T-2) sum x_j^4, E[Q | x_1] = (T-2) sum x_j^6 + H sum x_j^2 x_r^4."""
    C: Polynomial = {_exponents(d, {j: 4}): T - 2.0 for j in range(d)}
    Q: Polynomial = {_exponents(d, {j: 6}): T - 2.0 for j in range(d)}
    Q |= {_exponents(d, {j: 2, r: 4}): harmonic(T) for j, r in permutations(range(d), 2)}
    return C, Q


def _exponents(d: int, powers: dict[int, int]) -> tuple[int, ...]:
    return tuple(powers.get(j, 0) for j in range(d))


def _combine(C: Polynomial, Q: Polynomial, ab: float) -> Polynomial:
    """Return C - ab Q (they have no monomial in common)."""
    return C | {n: -ab * value for n, value in Q.items()}


def _expect(start: Start, f: Polynomial, g: Polynomial) -> float:
    """Return E[f(x_1) g(x_1)]."""
    return sum(
        value
        * other
        * start.finite_moment(tuple(k + l for k, l in zip(n, m, strict=True) if k + l))
        for (n, value), (m, other) in product(f.items(), g.items())
    )


def _evaluate(f: Polynomial, x_1: Tensor) -> Tensor:
    """Return f at each row of `[N, d]`."""
    powers = torch.tensor(list(f), dtype=x_1.dtype, device=x_1.device)  # [monomials, d]
    value = torch.tensor(list(f.values()), dtype=x_1.dtype, device=x_1.device)
    return (x_1[:, None, :] ** powers).prod(dim=2) @ value


def _phase_covariance(
    start: Start, T: int, ab: float, pilot: int, generator: torch.Generator
) -> Tensor:
    """Estimate the covariance `[2, 2]` of psi and Q that is left when x_1 is known."""
    x = sample_sequences(start, T, pilot, generator)
    C, Q = _overlaps(x)
    mean_C, mean_Q = (_evaluate(f, x[:, 0].real) for f in _means_given_start(start.d, T))
    C, Q = C - mean_C, Q - mean_Q
    return torch.cov(torch.stack([C - ab * Q, Q]))
