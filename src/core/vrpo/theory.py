r"""The statements of the paper as functions, constants included, and sharper ones beside them.

The loss is -f(s_hat) with f = log sigma, and s_hat an unbiased estimate of the score s. Its
variance V rules everything: how far the loss strays (Theorems 1 to 3), how far its gradient does
(Theorem 4); and V itself is ruled by how the sampling budget is spent (Proposition 2; Lemma 5
is `core.vrpo.exact.VarianceSplit.estimate`).

"The paper" is arXiv:2505.19223v2. What is marked *ours* is proved in the chapter and not printed
there. Two words: what Theorems 1, 2 and 4 bound is a mean absolute deviation, E|loss_hat - loss|,
which dominates the bias |E loss_hat - loss|; and Lemma 2 (gradient and mean change places where the
gradient is bounded) holds here without a condition, all means being finite sums.

All functions take and return floats or arrays, in nats.
"""

from math import gcd, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.special import expit, log_expit

Array = NDArray[np.floating]

LIPSCHITZ = 1.0
"""Lemma 1: |f'| <= 1."""
SMOOTHNESS = 0.25
"""Lemma 1: |f''| <= 1/4."""
THIRD = 1 / (6 * sqrt(3))
"""|f'''| <= 1 / (6 sqrt 3), taken where sigma(x) = (1 +- 1 / sqrt 3) / 2. Ours."""
PALEY_ZYGMUND = sqrt(0.2) * 0.8**2
"""The constant of Lemma 4."""


class Bounds(NamedTuple):
    """Of an estimate: how far it is off, and how much it varies, at most."""

    error: Array
    """Mean absolute deviation, or mean norm of the deviation."""
    variance: Array
    """Variance, or trace of the covariance."""


def slope(s: ArrayLike) -> Array:
    """Return f'(s) = sigma(-s) (Lemma 1)."""
    return expit(-np.asarray(s, dtype=float))


def curvature(s: ArrayLike) -> Array:
    """Return f''(s) = -sigma(s) sigma(-s), within [-1/4, 0) (Lemma 1)."""
    return -expit(np.asarray(s, dtype=float)) * slope(s)


def loss_bounds(V: ArrayLike) -> Bounds:
    """Return sqrt V and 4 V: Theorem 1, from Lemma 3 (Eqs. 16, 17)."""
    V = np.asarray(V, dtype=float)
    return Bounds(np.sqrt(V), 4 * V)


def sharp_loss_bounds(V: ArrayLike) -> Bounds:
    """Return V / 8 for the *bias*, and V for the variance. Ours; both constants are best possible.

    |f''| <= 1/4 and the mean of s_hat is s; f is 1-Lipschitz, and V f = E (f(X) - f(X'))^2 / 2.
    """
    V = np.asarray(V, dtype=float)
    return Bounds(V / 8, V)


def least_deviation(V: ArrayLike, kurtosis: ArrayLike) -> Array:
    """Return PALEY_ZYGMUND / kurtosis * sqrt V, below which no E|X - EX| is (Lemma 4)."""
    return PALEY_ZYGMUND / np.asarray(kurtosis, dtype=float) * np.sqrt(V)


def first_order_error(s: ArrayLike, V: ArrayLike, kurtosis: ArrayLike) -> tuple[Array, Array]:
    """Return both ends of Theorem 2 for E|loss_hat - loss|, to first order in s_hat - s.

    f'(s) sqrt V from above, and from below f'(s) times `least_deviation` (Lemma 4).
    """
    return slope(s) * least_deviation(V, kurtosis), slope(s) * np.sqrt(V)


def first_order_variance(s: ArrayLike, V: ArrayLike) -> Array:
    """Return f'(s)^2 V, the variance of the loss for small V (Theorem 3)."""
    return slope(s) ** 2 * np.asarray(V, dtype=float)


def score_variance(
    beta: float, policy: ArrayLike, reference: ArrayLike, correlation: ArrayLike = 0.0
) -> Array:
    """Return the variance of the score estimate (Eq. 9).

    Args:
        beta: strength of the reference.
        policy: `[..., 2]` variances of the policy's ELBO estimates, chosen and rejected.
        reference: `[..., 2]` of the reference's.
        correlation: `[..., 2]` between the two: 0 for independent masks.
    """
    apart = beta**2 * (np.asarray(policy, dtype=float) + reference).sum(axis=-1)
    return apart - sharing_gain(beta, policy, reference, correlation)


def sharing_gain(
    beta: float, policy: ArrayLike, reference: ArrayLike, correlation: ArrayLike
) -> Array:
    """Return what shared masks take out of the variance of the score (Proposition 2).

    Positive where the correlations are; what helps on one response can be lost on the other.
    Arguments as in `score_variance`.
    """
    deviations = np.sqrt(np.multiply(policy, reference, dtype=float))
    return 2 * beta**2 * (np.asarray(correlation) * deviations).sum(axis=-1)


def gradient_bound(beta: float, C: ArrayLike) -> Array:
    """Return 2 beta C, which bounds the norm of grad s_hat if C bounds grad of a term (Cor. 1)."""
    return 2 * beta * np.asarray(C, dtype=float)


def score_gradient_variance(beta: float, chosen: ArrayLike, rejected: ArrayLike) -> Array:
    """Return the trace of the covariance of grad s_hat (Eq. 20).

    The reference has no gradient: sharing masks with it changes nothing here.

    Args:
        beta: strength of the reference.
        chosen: trace of the covariance of the policy's ELBO gradient estimate, chosen response.
        rejected: the same, rejected response, its masks drawn independently.
    """
    return beta**2 * (np.asarray(chosen, dtype=float) + np.asarray(rejected, dtype=float))


def gradient_bounds(V: ArrayLike, trace: ArrayLike, C: ArrayLike) -> Bounds:
    """Return what Theorem 4 (Eqs. 18, 19) says of the gradient of the loss estimate.

    Args:
        V: variance of s_hat.
        trace: of the covariance of grad s_hat.
        C: bound on the norm of grad s_hat, from `gradient_bound`.
    """
    V, trace, C = (np.asarray(x, dtype=float) for x in (V, trace, C))
    return Bounds(C / 4 * np.sqrt(V) + np.sqrt(trace), C**2 / 8 * V + trace)


def gradient_bias_bound(V: ArrayLike, trace: ArrayLike, norm: ArrayLike) -> Array:
    """Return a bound on the *bias* of the gradient, of norm `norm` for the exact score. Ours.

    sqrt(V trace) / 4 + V norm / (12 sqrt 3): the covariance of weight and slope by Cauchy-Schwarz,
    and the bias of the weight by |f'''|. Second moments are enough; no bounded gradient.
    """
    V, trace = np.asarray(V, dtype=float), np.asarray(trace, dtype=float)
    return np.sqrt(V * trace) / 4 + weight_bias_bound(V) * np.asarray(norm, dtype=float)


def weight_bias_bound(V: ArrayLike) -> Array:
    """Return V / (12 sqrt 3), which bounds |E sigma(-s_hat) - sigma(-s)|. Ours.

    Times |grad s| it is all the bias that a cross-fitted gradient has, V being that of one half.
    """
    return THIRD / 2 * np.asarray(V, dtype=float)


def averaged_time_form_variance(V: ArrayLike, B: ArrayLike, L: int) -> Array:
    """Return the variance of the time form with 1 / t averaged given the mask. Ours.

    (1 + 1/L) V + B^2 / L, with V and B variance and mean of the fixed-count form. The time form
    itself varies at least as much: this proves the paper's "typically" (Appendix A).
    """
    return (1 + 1 / L) * np.asarray(V, dtype=float) + np.asarray(B, dtype=float) ** 2 / L


def time_form_growth(alone: ArrayLike) -> Array:
    """Return by how much the variance of the time form grows as its cut falls by a factor e. Ours.

    sum_i S_i^2, to leading order in the cut: infinite variance without one, unless all are 0.

    Args:
        alone: `[..., L]`: S_i, the log-probability of token i where it alone is masked; of the
            difference to the reference, for a score whose masks are shared.
    """
    return np.square(np.asarray(alone, dtype=float)).sum(axis=-1)


class GaussianLoss(NamedTuple):
    """The loss estimate where the score estimate is N(s, V)."""

    bias: float
    absolute_error: float
    variance: float


def gaussian_loss(s: float, V: float) -> GaussianLoss:
    """Return the moments behind Figure 2 by quadrature, where the paper draws 1,000 numbers.

    Raises:
        ValueError: V is not positive.
    """
    if not V > 0:
        raise ValueError(f"want a variance V > 0, got {V}")
    truth = float(-log_expit(s))

    def mean(function) -> float:
        def weighted(z: float) -> float:
            return function(-log_expit(s + sqrt(V) * z)) * np.exp(-(z**2) / 2) / sqrt(2 * np.pi)

        return sum(quad(weighted, *ends, epsabs=1e-13)[0] for ends in ((-12, 0), (0, 12)))

    average = mean(lambda f: f)
    error = mean(lambda f: abs(f - truth))
    return GaussianLoss(average - truth, error, mean(lambda f: (f - average) ** 2))


def rounded_counts_law(L: int, b: int) -> Array:
    """Return the law of one of b mask counts where systematic ones are rounded half to even.

    The public likelihood code of LLaDA (`get_log_likelihood.py`) takes round(k + i L / b), modulo
    L, for a random start k: exactly, over all starts and rows.

    Returns:
        `[L]` probabilities of 1..L.

    Raises:
        ValueError: L or b is below 1.
    """
    if L < 1 or b < 1:
        raise ValueError(f"want L >= 1 tokens and b >= 1 rows, got {L} and {b}")
    k, i = np.arange(1, L + 1)[:, None], np.arange(b)[None, :]
    whole, rest = np.divmod(i * L, b)  # exact integers: 2 rest against b decides, not rounding
    up = (2 * rest > b) | ((2 * rest == b) & ((k + whole) % 2 == 1))
    counts = (k + whole + up - 1) % L
    return np.bincount(counts.ravel(), minlength=L) / counts.size


def rounded_counts_are_uniform(L: int, b: int) -> bool:
    """Tell whether that law is uniform: exactly where b / gcd(L, b) is odd, or L = 1. Ours."""
    return L == 1 or b // gcd(L, b) % 2 == 1
